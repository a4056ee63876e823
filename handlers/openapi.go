package handlers

import (
	"net/http"
	"reflect"
	"strings"

	"forgewire/realtime"
)

// A path is a route that is not a method of the server API.
type path struct {
	path, about string
	ok          object // the content of its 200
	open        bool   // no key is needed
}

func asJSON(schema object) object { return object{"application/json": object{"schema": schema}} }

func asText() object { return object{"text/plain": object{"schema": object{"type": "string"}}} }

// paths lists the other GET routes for the OpenAPI document. A test compares it with the router.
func paths() []path {
	health := asJSON(schemaOf(reflect.TypeFor[healthBody](), false))
	stats := object{"type": "object", "required": []string{"result"}, "properties": object{"result": schemaOf(reflect.TypeFor[realtime.Stats](), false)}}
	return []path{
		{"/livez", "Says that the process runs.", health, true},
		{"/readyz", "Says whether this replica can serve; 503 if not.", health, true},
		{"/connection/websocket", "A WebSocket that speaks the Centrifuge client protocol (101).", asText(), true},
		{"/metrics", "The replica's figures for Prometheus. Not here if they have a port of their own.", asText(), false},
		{"/api/stats", "The figures of the replica that answers.", asJSON(stats), false},
		{"/api/openapi.json", "This document.", asJSON(object{"type": "object"}), true},
	}
}

// document describes everything that is served, in OpenAPI 3.1, from the types that the handlers use.
func document(version string, methods []method) object {
	all := object{}
	for _, m := range methods {
		result := object{"type": "object", "required": []string{"result"}, "properties": object{"result": schemaOf(m.result, false)}}
		all["/api/"+m.name] = object{"post": operation(m.name, m.about, schemaOf(m.request, true),
			asJSON(object{"oneOf": []object{result, errorSchema()}}), false)}
	}
	all["/api/batch"] = object{"post": operation("batch", "Run several commands, each {METHOD: request}, in order; one that fails does not stop the others.",
		schemaOf(reflect.TypeFor[batchRequest](), true), asJSON(batchSchema(methods)), false)}
	for _, p := range paths() {
		id := strings.Trim(strings.NewReplacer("/", "_", ".", "_").Replace(p.path), "_")
		all[p.path] = object{"get": operation(id, p.about, nil, p.ok, p.open)}
	}
	return object{
		"openapi":           "3.1.0",
		"jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"info": object{"title": "Forgewire", "version": version,
			"description": "The server API has Centrifugo's requests and replies: a command that was understood and refused is 200 with an error."},
		"paths": all,
		"components": object{
			"schemas": object{"Error": structSchema(reflect.TypeFor[realtime.Error](), false)},
			"securitySchemes": object{
				"key": object{"type": "apiKey", "in": "header", "name": "X-API-Key"},
			},
		},
	}
}

// batchSchema lists what each command can be answered with.
func batchSchema(methods []method) object {
	replies := []object{errorSchema()}
	for _, m := range methods {
		replies = append(replies, object{"type": "object", "required": []string{m.name}, "properties": object{m.name: schemaOf(m.result, false)}})
	}
	return object{"type": "object", "required": []string{"replies"}, "properties": object{
		"replies": object{"type": "array", "items": object{"oneOf": replies}}}}
}

func errorSchema() object {
	return object{"type": "object", "required": []string{"error"}, "properties": object{"error": object{"$ref": "#/components/schemas/Error"}}}
}

func operation(id, about string, request, ok object, open bool) object {
	failed := func(why string) object { return object{"description": why, "content": asJSON(errorSchema())} }
	responses := object{"200": object{"description": "Done, or refused.", "content": ok}}
	if id == "readyz" {
		responses["503"] = object{"description": "Not ready.", "content": ok}
	} else {
		responses["503"] = failed("It may go well later: see Retry-After.")
	}
	o := object{"operationId": id, "summary": about, "responses": responses}
	if !open {
		responses["401"], responses["403"] = failed("No API key, or a wrong one."), failed("The server API is disabled.")
		o["security"] = []object{{"key": []string{}}}
	}
	if request != nil {
		responses["400"], responses["413"] = failed("Not JSON."), failed("Too large.")
		o["requestBody"] = object{"required": true, "content": asJSON(request)}
	}
	return o
}

// openAPI serves the document.
func (s *server) openAPI(w http.ResponseWriter, r *http.Request) {
	s.write(w, r, http.StatusOK, s.document)
}
