// Package middleware is what stands in front of the routes of /v1 and concerns no single one of them: which pages may
// call them, how much one address may ask, how answers are compressed, and what browsers must not do with them. One
// file each. Who may use a route is the business of package access.
package middleware
