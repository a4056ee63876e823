package resources

import (
	"net/http"
	"reflect"
	"slices"
)

// Route is one route: what is served, and what the OpenAPI document says of it.
type Route struct {
	Method, Path, ID, About string
	Query                   []Param
	Header                  []Param
	Request                 reflect.Type // of the JSON body; nil for none
	RequestTypes            []string     // of a body that is a stream
	Response                reflect.Type // of the JSON answer; nil for none
	ResponseTypes           []string     // of an answer that is a stream
	Status                  int          // of success
	Stream                  bool         // has no bound in time
	cached                  bool         // what takes time in it is bounded by call.cached
	handle                  func(*call) error
}

// Param is a parameter of the query, or a header.
type Param struct {
	Name, About string
	Required    bool
}

var (
	limitParam  = Param{Name: "limit", About: "How many on a page: 1 to 100, else 20."}
	afterParam  = Param{Name: "after", About: "What the page before said under after."}
	ifMatch     = Param{Name: "If-Match", About: "The ETag of what was read, or * to overwrite whatever is there.", Required: true}
	mayMatch    = Param{Name: "If-Match", About: "The ETag of what was read; without one, whatever is there."}
	ifNoneMatch = Param{Name: "If-None-Match", About: "The ETag of what is at hand: 304 if it is still that."}
	onceOnly    = Param{Name: "Idempotency-Key", About: "Sent again with the same body within 24 hours, the first answer comes again."}
)

// Routes lists all routes.
func (s *Service) Routes() []Route {
	return slices.Concat(promptRoutes(), datasetRoutes(), s.evaluationRoutes())
}

func promptRoutes() []Route {
	const base = "/v1/prompts"
	one, labels := base+"/{id}", base+"/{id}/labels/{label}"
	prompt := reflect.TypeFor[Prompt]()
	return []Route{
		{Method: http.MethodPost, Path: base, ID: "create_prompt", About: "Make a prompt with its first version.", Header: []Param{onceOnly},
			Request: reflect.TypeFor[newPrompt](), Response: prompt, Status: http.StatusCreated, handle: createPrompt},
		{Method: http.MethodGet, Path: base, ID: "list_prompts", About: "The tenant's prompts, the newest first.",
			Query: []Param{limitParam, afterParam, {Name: "name", About: "Only the one of this name."}}, Response: reflect.TypeFor[Page[Prompt]](), Status: http.StatusOK, handle: listPrompts},
		{Method: http.MethodGet, Path: one, ID: "get_prompt", About: "A prompt with its newest version, or the one that is asked for.", Header: []Param{ifNoneMatch},
			Query: []Param{{Name: "version", About: "A number."}, {Name: "label", About: "As in production."}}, Response: prompt, Status: http.StatusOK, cached: true, handle: getPrompt},
		{Method: http.MethodPatch, Path: one, ID: "update_prompt", About: "Rename a prompt.", Header: []Param{ifMatch},
			Request: reflect.TypeFor[renamed](), Response: prompt, Status: http.StatusOK, handle: updatePrompt},
		{Method: http.MethodDelete, Path: one, ID: "delete_prompt", About: "Delete a prompt with all versions.", Header: []Param{ifMatch}, Status: http.StatusNoContent, handle: deletePrompt},
		{Method: http.MethodPost, Path: one + "/versions", ID: "create_prompt_version", About: "Add a version, which never changes afterwards.", Header: []Param{onceOnly, mayMatch},
			Request: reflect.TypeFor[newVersion](), Response: prompt, Status: http.StatusCreated, handle: createVersion},
		{Method: http.MethodGet, Path: one + "/versions", ID: "list_prompt_versions", About: "A prompt's versions, the newest first.",
			Query: []Param{limitParam, afterParam}, Response: reflect.TypeFor[Page[Version]](), Status: http.StatusOK, handle: listVersions},
		{Method: http.MethodPut, Path: labels, ID: "set_prompt_label", About: "Point a label, as production, to a version.", Header: []Param{ifMatch},
			Request: reflect.TypeFor[labelled](), Response: prompt, Status: http.StatusOK, handle: setLabel},
		{Method: http.MethodDelete, Path: labels, ID: "delete_prompt_label", About: "Take a label away.", Header: []Param{ifMatch}, Response: prompt, Status: http.StatusOK, handle: dropLabel},
		{Method: http.MethodPost, Path: one + "/render", ID: "render_prompt", About: "Put values into a template: each variable must have one.",
			Request: reflect.TypeFor[toRender](), Response: reflect.TypeFor[Rendered](), Status: http.StatusOK, handle: renderPrompt},
	}
}
