package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// A value in Valkey, all numbers big-endian:
//
//	magic, version       2 bytes, 1 byte
//	form                 1 byte: 0 as it is, 1 zstd
//	checksum             8 bytes: xxHash64 of all that follows
//	stored, ttl, stale   8 bytes each, in milliseconds
//	length               4 bytes, of the value before compression
//	number of tags       1 byte; for each: length (2 bytes), name, token (16 bytes)
//	the value            the rest
//
// What does not fit this is a miss: another program's value, an older release's, a damaged one.
const (
	magic         = 0xF07E
	formatVersion = 1
	formPlain     = 0
	formZstd      = 1
	headEnd       = 12
	fixedEnd      = headEnd + 3*8 + 4 + 1
	tokenBytes    = 16

	// compressOver is the size from which on compression is tried.
	compressOver = 1024
)

var errNotOurs = errors.New("not a value of this version")

// tagged is a tag of a stored value and the token that the tag had then.
type tagged struct {
	name  string
	token string
}

// codec turns records into bytes and back. It may be used by many at once.
type codec struct {
	zip   *zstd.Encoder
	unzip *zstd.Decoder
}

func newCodec() (*codec, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make the compressor: %w", err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxValueBytes), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make the decompressor: %w", err)
	}
	return &codec{zip: zip, unzip: unzip}, nil
}

// encode returns the stored form and how many bytes compression saved.
func (c *codec) encode(r record, tags []tagged) (data []byte, saved int) {
	size := fixedEnd + len(r.value)
	for _, t := range tags {
		size += 2 + len(t.name) + tokenBytes
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint16(b, magic)
	b = append(b, formatVersion, formPlain)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.stored.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.ttl.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.stale.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.value)))
	b = append(b, byte(len(tags)))
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, uint16(len(t.name)))
		b = append(b, t.name...)
		b = append(b, t.token...)
	}
	body := len(b)
	if len(r.value) > compressOver {
		b = c.zip.EncodeAll(r.value, b)
	}
	if saved = len(r.value) - (len(b) - body); len(b) > body && saved > 0 {
		b[3] = formZstd
	} else {
		b, saved = append(b[:body], r.value...), 0
	}
	binary.BigEndian.PutUint64(b[4:], xxhash.Sum64(b[headEnd:]))
	return b, saved
}

// decode reads the stored form. The record does not alias data.
func (c *codec) decode(data []byte) (record, []tagged, error) {
	if len(data) < fixedEnd || binary.BigEndian.Uint16(data) != magic || data[2] != formatVersion {
		return record{}, nil, errNotOurs
	}
	if xxhash.Sum64(data[headEnd:]) != binary.BigEndian.Uint64(data[4:]) {
		return record{}, nil, fmt.Errorf("%w: the checksum is wrong", errNotOurs)
	}
	r := record{stored: time.UnixMilli(int64(binary.BigEndian.Uint64(data[12:])))}
	var ok [2]bool
	r.ttl, ok[0] = duration(data[20:])
	r.stale, ok[1] = duration(data[28:])
	length := int(binary.BigEndian.Uint32(data[36:]))
	if !ok[0] || !ok[1] || length > MaxValueBytes {
		return record{}, nil, fmt.Errorf("%w: a number is out of bounds", errNotOurs)
	}
	tags, rest, err := decodeTags(int(data[40]), data[fixedEnd:])
	if err != nil {
		return record{}, nil, err
	}
	r.value = make([]byte, 0, length)
	switch data[3] {
	case formPlain:
		r.value = append(r.value, rest...)
	case formZstd:
		if r.value, err = c.unzip.DecodeAll(rest, r.value); err != nil {
			return record{}, nil, fmt.Errorf("%w: %w", errNotOurs, err)
		}
	default:
		return record{}, nil, fmt.Errorf("%w: unknown form", errNotOurs)
	}
	if len(r.value) != length {
		return record{}, nil, fmt.Errorf("%w: the length is wrong", errNotOurs)
	}
	for _, t := range tags {
		r.tags = append(r.tags, t.name)
	}
	return r, tags, nil
}

func decodeTags(n int, data []byte) (tags []tagged, rest []byte, err error) {
	if n > MaxTags {
		return nil, nil, fmt.Errorf("%w: too many tags", errNotOurs)
	}
	for range n {
		if len(data) < 2 {
			return nil, nil, fmt.Errorf("%w: cut short", errNotOurs)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		if len(data) < end+tokenBytes {
			return nil, nil, fmt.Errorf("%w: cut short", errNotOurs)
		}
		tags = append(tags, tagged{name: string(data[2:end]), token: string(data[end : end+tokenBytes])})
		data = data[end+tokenBytes:]
	}
	return tags, data, nil
}

func duration(b []byte) (time.Duration, bool) {
	ms := binary.BigEndian.Uint64(b)
	return time.Duration(ms) * time.Millisecond, ms <= uint64(MaxLife.Milliseconds())
}
