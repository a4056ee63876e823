package handlers

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// object is a JSON object that is put together by hand.
type object = map[string]any

// schemaOf describes a Go type as encoding/json has it, in JSON Schema 2020-12, which is OpenAPI 3.1's. A
// request's object takes no other fields and requires those that are tagged api:"required"; a reply's may
// get more in a later version, and always has those that are not omitempty.
func schemaOf(t reflect.Type, request bool) object {
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		return object{} // any JSON
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), request)
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), request)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem(), request)}
	case reflect.Struct:
		return structSchema(t, request)
	case reflect.Interface:
		return object{}
	}
	panic("handlers: no JSON schema for " + t.String()) // at the start, and in the first test
}

func structSchema(t reflect.Type, request bool) object {
	properties, required := object{}, []string{}
	for f := range t.Fields() {
		if f.Type == reflect.TypeFor[unsupported]() {
			continue
		}
		name, options, tagged := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			inner := structSchema(f.Type, request)
			for k, v := range inner["properties"].(object) {
				properties[k] = v
			}
			if more, ok := inner["required"].([]string); ok {
				required = append(required, more...)
			}
			continue
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		properties[name] = schemaOf(f.Type, request)
		if f.Type.Kind() == reflect.Pointer && !request && !strings.Contains(options, "omitempty") {
			properties[name] = object{"anyOf": []object{schemaOf(f.Type, request), {"type": "null"}}}
		}
		if request && f.Tag.Get("api") == "required" || !request && !(tagged && strings.Contains(options, "omitempty")) {
			required = append(required, name)
		}
	}
	s := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	if request {
		s["additionalProperties"] = false
	}
	return s
}
