// Package handlers is the HTTP side: the routes, the middleware, and one file a resource, each of which
// decodes, calls, and encodes. What a call means is the business of package realtime.
//
// Every route is listed in Routes. Errors are JSON with a code; what is not for the caller's eyes goes to
// the log, with the request's id.
package handlers
