package handlers

import (
	"reflect"

	"forgewire/handlers/access"
	"forgewire/handlers/stream"
)

// v1 describes the routes of /v1 that the keys of `forgewire key` open. Their errors are problems.
func v1() object {
	failed := func(why string) object {
		return aProblem(why)
	}
	get := func(id, about string, result reflect.Type, parameters ...object) object {
		o := object{"operationId": id, "summary": about, "security": []object{{"bearer": []string{}}}, "responses": object{
			"200": object{"description": "Done.", "content": asJSON(schemaOf(result, false))},
			"400": failed("A parameter is wrong."), "401": failed("No key, or one that is not good."),
			"404": failed("There is none."), "429": tooOften(), "503": failed("It may go well later: see Retry-After.")}}
		if len(parameters) > 0 {
			o["parameters"] = parameters
		}
		return object{"get": o}
	}
	text := object{"type": "string"}
	limit := inQuery("limit", "Runs on a page.", object{"type": "integer", "minimum": 1, "maximum": 100, "default": 20})
	filters := func(after string) []object {
		return []object{inQuery("after", after, text),
			inQuery("model", "As it was asked for.", text),
			inQuery("answer_id", "The answer's id.", text),
			inQuery("status", "HTTP.", object{"type": "integer", "minimum": 100, "maximum": 599}),
			inQuery("cache", "What the cache had to do with it.", object{"type": "string", "enum": []string{"hit", "miss", "collapsed", "stale", "bypass"}}),
			inQuery("since", "RFC 3339, or seconds since 1970.", text),
			inQuery("until", "RFC 3339, or seconds since 1970; not this moment itself.", text)}
	}
	return object{
		"/v1/runs": get("v1_runs", "The runs of the key's tenant, the newest first.", reflect.TypeFor[access.RunPage](),
			append(filters("What the page before said under after."), limit)...),
		"/v1/runs/export": exported(get("v1_runs_export", "All of the tenant's runs, the newest first, as NDJSON or CSV.", reflect.TypeFor[access.ExportedRun](),
			filters("The cursor of the last line that is at hand.")...)),
		"/v1/runs/{id}": get("v1_run", "One run of the key's tenant.", reflect.TypeFor[access.RunDetail](),
			object{"name": "id", "in": "path", "required": true, "schema": text}),
		"/v1/usage": get("v1_usage", "What the key's tenant used this calendar month (UTC), key by key.", reflect.TypeFor[access.Usage]()),
	}
}

// exported describes an answer that is a stream.
func exported(get object) object {
	get["get"].(object)["responses"].(object)["200"].(object)["content"] = streams([]string{stream.NDJSON, stream.CSV})
	return get
}
