package middleware

import (
	"io"
	"net/http"

	"github.com/andybalholm/brotli"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/klauspost/compress/zstd"
)

const (
	compressionLevel = 5        // of gzip and brotli
	zstdWindow       = 64 << 10 // bytes: what one stream's encoder holds is a few times that
)

// Compress compresses what is JSON, NDJSON or CSV, as the client asks: zstd, br or gzip, in this order. Server-sent
// events are never compressed: they would wait for more of their kind.
func Compress() func(http.Handler) http.Handler {
	c := middleware.NewCompressor(compressionLevel, "application/json", "application/problem+json", "application/x-ndjson", "text/csv")
	// The last one that is set comes first where a client takes several.
	c.SetEncoder("br", func(w io.Writer, level int) io.Writer {
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: level, LGWin: 16})
	})
	c.SetEncoder("zstd", func(w io.Writer, _ int) io.Writer {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true),
			zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil { // the options are constant
			return nil
		}
		return z
	})
	return c.Handler
}
