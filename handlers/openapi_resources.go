package handlers

import (
	"net/http"
	"strconv"
	"strings"

	"forgewire/handlers/problem"
	"forgewire/handlers/resources"
)

func aProblem(why string) object {
	return object{"description": why, "content": object{problem.ContentType: object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}
}

// tooOften is what FORGEWIRE_MAX_IP_REQUESTS makes of one request too many.
func tooOften() object { return aProblem("This address asks too often: see Retry-After.") }

// addResources describes the resources, from the table that their routes are made from.
func addResources(all object, routes []resources.Route) {
	for _, r := range routes {
		if all[r.Path] == nil {
			all[r.Path] = object{}
		}
		all[r.Path].(object)[strings.ToLower(r.Method)] = resourceOperation(r)
	}
}

func resourceOperation(r resources.Route) object {
	text := object{"type": "string"}
	responses := object{"400": aProblem("A parameter or the body is wrong."), "401": aProblem("No key, or one that is not good."),
		"404": aProblem("There is none."), "429": tooOften(), "503": aProblem("It may go well later: see Retry-After.")}
	done := object{"description": "Done."}
	switch {
	case r.Response != nil:
		done["content"] = asJSON(schemaOf(r.Response, false))
	case len(r.ResponseTypes) > 0:
		done["content"] = streams(r.ResponseTypes)
	}
	responses[strconv.Itoa(r.Status)] = done
	o := object{"operationId": r.ID, "summary": r.About, "security": []object{{"bearer": []string{}}}, "responses": responses}
	var parameters []object
	for rest := r.Path; ; {
		_, after, found := strings.Cut(rest, "{")
		if !found {
			break
		}
		name, after, _ := strings.Cut(after, "}")
		parameters = append(parameters, object{"name": name, "in": "path", "required": true, "schema": text})
		rest = after
	}
	for _, p := range r.Query {
		parameters = append(parameters, object{"name": p.Name, "in": "query", "description": p.About, "schema": text, "required": p.Required})
	}
	for _, p := range r.Header {
		parameters = append(parameters, object{"name": p.Name, "in": "header", "description": p.About, "schema": text, "required": p.Required})
		switch p.Name {
		case "If-None-Match":
			responses["304"] = object{"description": "It is still that."}
		case "If-Match":
			responses["412"], responses["428"] = aProblem("It was changed in between."), aProblem("If-Match is needed.")
		case "Idempotency-Key":
			responses["422"] = aProblem("The key came with another request, or the body asks for what there is not.")
		}
	}
	if parameters != nil {
		o["parameters"] = parameters
	}
	if r.Method != http.MethodGet {
		responses["409"] = aProblem("It contradicts what is there.")
	}
	if r.Request != nil {
		o["requestBody"] = object{"required": true, "content": asJSON(schemaOf(r.Request, true))}
		responses["413"], responses["415"], responses["422"] = aProblem("Too large."), aProblem("Not JSON."), aProblem("The body asks for what there is not.")
	} else if len(r.RequestTypes) > 0 {
		o["requestBody"] = object{"required": true, "content": streams(r.RequestTypes)}
		responses["415"] = aProblem("Neither NDJSON nor CSV, or packed in an unknown way.")
	}
	return o
}

func streams(types []string) object {
	content := object{}
	for _, t := range types {
		content[t] = object{"schema": object{"type": "string"}}
	}
	return content
}
