//go:build long

// To compile the SDK takes as long as all of Forgewire: this is in make test-long only.

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	sdk "github.com/openai/openai-go/v3/shared"
)

// The published Go SDK runs unchanged. It asks the model itself first: so what is seen of Forgewire is Forgewire's.
func TestLLMGoSDK(t *testing.T) {
	t.Parallel()
	t.Run("the model alone", func(t *testing.T) {
		m := newModel(t, sdkModels())
		goSDK(t, openai.NewClient(option.WithBaseURL(m.URL()), option.WithAPIKey(modelKey)))
	})
	t.Run("through Forgewire", func(t *testing.T) {
		c := newLLM(t, nil, sdkModels())
		client := openai.NewClient(option.WithBaseURL("http://"+c.replicas[0].addr+"/v1"), option.WithAPIKey(apiKey))
		goSDK(t, client)
		t.Run("resume", func(t *testing.T) { goResume(t, client) })
	})
}

func chatOf(model, question string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)}}
}

func goSDK(t *testing.T, client openai.Client) {
	t.Run("chat", func(t *testing.T) {
		out, err := client.Chat.Completions.New(t.Context(), chatOf("m", "go chat"))
		if err != nil {
			t.Fatal(err)
		}
		checkAnswer(t, out.Choices[0].Message.Content, "go chat", 10)
		if out.Usage.CompletionTokens != 10 || out.Choices[0].FinishReason != "stop" {
			t.Errorf("%s", out.RawJSON())
		}
	})
	t.Run("stream", func(t *testing.T) {
		params := chatOf("m", "go stream")
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		out := goStream(t, client, params)
		checkAnswer(t, out.Choices[0].Message.Content, "go stream", 10)
		if out.Usage.CompletionTokens != 10 {
			t.Errorf("usage: %+v", out.Usage)
		}
	})
	t.Run("tools", func(t *testing.T) { goTools(t, client) })
	t.Run("JSON mode", func(t *testing.T) {
		params := chatOf("m", "go json")
		params.ResponseFormat.OfJSONObject = &sdk.ResponseFormatJSONObjectParam{}
		out, err := client.Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		if text := out.Choices[0].Message.Content; !json.Valid([]byte(text)) || !strings.Contains(text, "12345678901234567890") {
			t.Errorf("not JSON: %s", text)
		}
	})
	t.Run("responses", func(t *testing.T) { goResponses(t, client) })
	t.Run("embeddings and models", func(t *testing.T) {
		out, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "m", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("go")}})
		if err != nil || len(out.Data) != 1 || len(out.Data[0].Embedding) != 8 {
			t.Errorf("%v, %+v", err, out)
		}
		models, err := client.Models.List(t.Context())
		if err != nil || len(models.Data) < 5 {
			t.Errorf("%v, %+v", err, models)
		}
	})
	t.Run("errors", func(t *testing.T) { goErrors(t, client) })
	t.Run("abort", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := client.Chat.Completions.NewStreaming(ctx, chatOf("slow", "go abort"))
		for range 3 {
			if !s.Next() {
				t.Fatal(s.Err())
			}
		}
		cancel()
		for s.Next() {
		}
		if !errors.Is(s.Err(), context.Canceled) {
			t.Errorf("aborted: %v", s.Err())
		}
	})
}

func goStream(t *testing.T, client openai.Client, params openai.ChatCompletionNewParams) *openai.ChatCompletionAccumulator {
	t.Helper()
	s := client.Chat.Completions.NewStreaming(t.Context(), params)
	acc := &openai.ChatCompletionAccumulator{}
	for s.Next() {
		if !acc.AddChunk(s.Current()) {
			t.Errorf("a chunk that does not belong: %s", s.Current().RawJSON())
		}
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return acc
}

func goTools(t *testing.T, client openai.Client) {
	params := chatOf("m", "go tools")
	params.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(sdk.FunctionDefinitionParam{
		Name:       "weather",
		Parameters: sdk.FunctionParameters{"type": "object", "properties": object{"city": object{"type": "string"}}},
	})}
	whole, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	calls := whole.Choices[0].Message.ToolCalls
	if len(calls) != 1 || calls[0].Function.Name != "weather" || !json.Valid([]byte(calls[0].Function.Arguments)) {
		t.Fatalf("calls: %+v", calls)
	}
	streamed := goStream(t, client, params).Choices[0]
	if s := streamed.Message.ToolCalls; len(s) != 1 || s[0].Function.Name != "weather" || !json.Valid([]byte(s[0].Function.Arguments)) || streamed.FinishReason != "tool_calls" {
		t.Fatalf("streamed calls: %+v", s)
	}
	params.Messages = append(params.Messages, whole.Choices[0].Message.ToParam(), openai.ToolMessage("sunny", calls[0].ID))
	last, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	checkAnswer(t, last.Choices[0].Message.Content, "sunny", 10)
}

func goResponses(t *testing.T, client openai.Client) {
	params := responses.ResponseNewParams{Model: "m", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("go responses")}}
	whole, err := client.Responses.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	checkAnswer(t, whole.OutputText(), "go responses", 10)
	s := client.Responses.NewStreaming(t.Context(), params)
	var text strings.Builder
	completed := false
	for s.Next() {
		switch e := s.Current().AsAny().(type) {
		case responses.ResponseTextDeltaEvent:
			text.WriteString(e.Delta)
		case responses.ResponseCompletedEvent:
			completed = e.Response.Status == "completed"
		}
	}
	if s.Err() != nil || !completed {
		t.Errorf("completed %v, %v", completed, s.Err())
	}
	checkAnswer(t, text.String(), "go responses", 10)
}

func goErrors(t *testing.T, client openai.Client) {
	for model, want := range map[string]int{"nobody": http.StatusNotFound, "refuses": http.StatusBadRequest, "broken": http.StatusInternalServerError} {
		_, err := client.Chat.Completions.New(t.Context(), chatOf(model, "go errors"), option.WithMaxRetries(0))
		var e *openai.Error
		// A gateway may say of a model that fails that it is a bad gateway.
		if !errors.As(err, &e) || e.StatusCode != want && (want < 500 || e.StatusCode < 500) || e.Message == "" {
			t.Errorf("%s: %v", model, err)
		}
	}
	out, err := client.Chat.Completions.New(t.Context(), chatOf("busy", "go retries"), option.WithMaxRetries(3))
	if err != nil {
		t.Errorf("it did not get through in three retries: %v", err)
	} else {
		checkAnswer(t, out.Choices[0].Message.Content, "go retries", 10)
	}
	s := client.Chat.Completions.NewStreaming(t.Context(), chatOf("breaks", "go breaks"), option.WithMaxRetries(0))
	n := 0
	for s.Next() {
		n++
	}
	if s.Err() == nil {
		t.Errorf("an answer that breaks after %d events was taken for a whole one", n)
	}
	_, err = client.Chat.Completions.New(t.Context(), chatOf("m", "go key"), option.WithAPIKey("wrong-key-0123456789"), option.WithMaxRetries(0))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong key: %v", err)
	}
}

// goResume breaks off in the middle and goes on where it was.
func goResume(t *testing.T, client openai.Client) {
	params := responses.ResponseNewParams{Model: "paced", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("go resume")}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := client.Responses.NewStreaming(ctx, params)
	var text strings.Builder
	var id string
	var at int64
	for n := 0; n < 10 && s.Next(); {
		at = s.Current().SequenceNumber
		switch e := s.Current().AsAny().(type) {
		case responses.ResponseCreatedEvent:
			id = e.Response.ID
		case responses.ResponseTextDeltaEvent:
			text.WriteString(e.Delta)
			n++
		}
	}
	cancel()
	s.Close()
	rest := client.Responses.GetStreaming(t.Context(), id, responses.ResponseGetParams{StartingAfter: openai.Int(at)})
	for rest.Next() {
		if d, ok := rest.Current().AsAny().(responses.ResponseTextDeltaEvent); ok {
			text.WriteString(d.Delta)
		}
	}
	if rest.Err() != nil {
		t.Fatal(rest.Err())
	}
	checkAnswer(t, text.String(), "go resume", 40)
}
