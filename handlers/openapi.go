package handlers

import (
	"maps"
	"net/http"
	"reflect"
	"strings"

	"forgewire/handlers/problem"
	"forgewire/handlers/resources"
	"forgewire/infra/monitor"
	"forgewire/realtime"
)

// A path is a route that is not a method of the server API.
type path struct {
	method, path, about string
	request             object // the schema of its body; nil for none
	ok                  object // the content of its 200
	open                bool   // no key is needed
}

func asJSON(schema object) object { return object{"application/json": object{"schema": schema}} }

func asText() object { return asStream("text/plain") }

// asStream is content that is not one JSON value.
func asStream(contentType string) object {
	return object{contentType: object{"schema": object{"type": "string"}}}
}

// paths lists the other routes for the OpenAPI document. A test compares it with the router.
func paths() []path {
	health := asJSON(schemaOf(reflect.TypeFor[healthBody](), false))
	stats := object{"type": "object", "required": []string{"result"}, "properties": object{"result": schemaOf(reflect.TypeFor[realtime.Stats](), false)}}
	const get, post = "get", "post"
	commands := object{"type": "object", "description": "The first command, connect, and others behind it, one a line."}
	emulation := object{"type": "object", "required": []string{"node", "session", "data"}, "properties": object{
		"node": object{"type": "string"}, "session": object{"type": "string"}, "data": object{}}}
	return []path{
		{get, "/livez", "Says that the process runs.", nil, health, true},
		{get, "/readyz", "Says whether this replica can serve; 503 if not.", nil, health, true},
		{get, "/connection/websocket", "A WebSocket that speaks the Centrifuge client protocol (101).", nil, asText(), true},
		{get, "/connection/sse", "The client protocol as server-sent events; the first command is in the parameter cf_connect.", nil, asStream("text/event-stream"), true},
		{post, "/connection/sse", "The same, with the first commands in the body.", commands, asStream("text/event-stream"), true},
		{post, "/connection/http_stream", "The client protocol as an HTTP response that does not end.", commands, asStream("text/plain"), true},
		{post, "/emulation", "Further commands of a client that has one of those two.", emulation, asStream("text/plain"), true},
		{get, "/v1/channels/{channel}/events", "A channel as plain server-sent events, resumed by Last-Event-ID.", nil, asStream("text/event-stream"), true},
		{get, "/metrics", "The replica's figures for Prometheus. Not here if they have a port of their own.", nil, asText(), false},
		{get, "/v1/stats", "The figures of the replica that answers or, with scope=cluster, of all: requests by route, the slow and the last ones, pools, memory, realtime.", nil, asJSON(schemaOf(reflect.TypeFor[statsResult](), false)), false},
		{get, "/api/stats", "The figures of the replica that answers.", nil, asJSON(stats), false},
		{get, "/api/openapi.json", "This document.", nil, asJSON(object{"type": "object"}), true},
	}
}

// document describes everything that is served, in OpenAPI 3.1, from the types that the handlers use.
func document(version string, methods []method, routes []resources.Route) object {
	all := object{}
	for _, m := range methods {
		result := object{"type": "object", "required": []string{"result"}, "properties": object{"result": schemaOf(m.result, false)}}
		all["/api/"+m.name] = object{"post": operation(m.name, m.about, schemaOf(m.request, true),
			asJSON(object{"oneOf": []object{result, errorSchema()}}), false)}
	}
	all["/api/batch"] = object{"post": operation("batch", "Run several commands, each {METHOD: request}, in order; one that fails does not stop the others.",
		schemaOf(reflect.TypeFor[batchRequest](), true), asJSON(batchSchema(methods)), false)}
	for _, p := range paths() {
		if all[p.path] == nil {
			all[p.path] = object{}
		}
		all[p.path].(object)[p.method] = p.operation()
	}
	all["/v1/stats"].(object)["get"].(object)["parameters"] = []object{
		inQuery("scope", "replica, which is the default, or cluster.", object{"type": "string", "enum": []string{"replica", "cluster"}, "default": "replica"}),
		inQuery("recent", "How many of the replica's last requests are listed; 20 if it is not given.", object{"type": "integer", "minimum": 1, "maximum": monitor.MaxRecent}),
	}
	maps.Copy(all, v1())
	addResources(all, routes)
	return object{
		"openapi":           "3.1.0",
		"jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"info": object{"title": "Forgewire", "version": version,
			"description": "The server API has Centrifugo's requests and replies: a command that was understood and refused is 200 with an error."},
		"paths": all,
		"components": object{
			"schemas": object{"Error": structSchema(reflect.TypeFor[realtime.Error](), false),
				"Problem": structSchema(reflect.TypeFor[problem.Problem](), false)},
			"securitySchemes": object{
				"key":    object{"type": "apiKey", "in": "header", "name": "X-API-Key"},
				"bearer": object{"type": "http", "scheme": "bearer"},
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

// operation describes the route; what its path names in braces is a parameter.
func (p path) operation() object {
	id := strings.Trim(strings.NewReplacer("/", "_", ".", "_", "{", "", "}", "").Replace(p.path), "_")
	if p.method != "get" {
		id = p.method + "_" + id
	}
	o := operation(id, p.about, p.request, p.ok, p.open)
	var parameters []object
	for rest := p.path; ; {
		_, after, found := strings.Cut(rest, "{")
		if !found {
			break
		}
		name, after, _ := strings.Cut(after, "}")
		parameters = append(parameters, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}})
		rest = after
	}
	if parameters != nil {
		o["parameters"] = parameters
	}
	return o
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

func inQuery(name, about string, schema object) object {
	return object{"name": name, "in": "query", "description": about, "schema": schema}
}

// openAPI serves the document.
func (s *server) openAPI(w http.ResponseWriter, r *http.Request) {
	s.write(w, r, http.StatusOK, s.document)
}
