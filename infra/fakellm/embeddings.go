package fakellm

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
)

const defaultDimensions = 8

// embeddings is POST /v1/embeddings. The last number of each vector is the answer's own, as a nonce is.
func embeddings(x *exchange) {
	var inputs []string
	if json.Unmarshal(x.request.Input, &inputs) != nil {
		inputs = []string{text(x.request.Input)}
	}
	n := x.request.Dimensions
	if n <= 0 {
		n = defaultDimensions
	}
	own := sha256.Sum256([]byte(x.nonce))
	data := make([]object, len(inputs))
	for i, in := range inputs {
		v := vector(in, n)
		v[n-1] = float32(binary.LittleEndian.Uint16(own[:])) / math.MaxUint16
		data[i] = object{"object": "embedding", "index": i, "embedding": v}
		if x.request.EncodingFormat == "base64" {
			b := make([]byte, 0, 4*n)
			for _, f := range v {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
			}
			data[i]["embedding"] = base64.StdEncoding.EncodeToString(b)
		}
	}
	x.whole(1, object{"object": "list", "model": x.request.Model, "data": data,
		"usage": object{"prompt_tokens": x.request.promptTokens(), "total_tokens": x.request.promptTokens()}})
}

// vector depends on the text alone.
func vector(text string, n int) []float32 {
	sum := sha256.Sum256([]byte(text))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(sum[i%len(sum)]) / math.MaxUint8
	}
	return out
}
