package llm

// An endpoint is what is asked for, as the end of its URL.
type endpoint string

// The endpoints whose answers can be cached.
const (
	chat        endpoint = "chat/completions"
	responses   endpoint = "responses"
	embeddings  endpoint = "embeddings"
	completions endpoint = "completions"
)

// hasUsageOption says whether a stream brings its usage only if stream_options.include_usage asks for it.
func (e endpoint) hasUsageOption() bool { return e == chat || e == completions }
