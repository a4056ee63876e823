package resources

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/handlers/stream"
)

// DatasetNamespace is that of the channels on which changes of data sets are published: "$datasets:" and the tenant.
const DatasetNamespace = "datasets"

const datasetPrefix = "ds_"

// Dataset is a data set as it is shown.
type Dataset struct {
	ID        string    `json:"id"`
	Object    string    `json:"object"`
	Name      string    `json:"name"`
	Variables []string  `json:"variables"` // of each case; empty until the first one is there
	Cases     int64     `json:"cases"`
	ETag      string    `json:"etag"`
	Created   time.Time `json:"created_at"`
	Updated   time.Time `json:"updated_at"`
}

type newDataset struct {
	Name string `json:"name" api:"required"`
}

// Case is a line of an NDJSON import or export. CSV has a column for each variable, and one named expected.
type Case struct {
	Variables map[string]string `json:"variables"`
	Expected  *string           `json:"expected,omitempty"`
}

var streamTypes = []string{stream.NDJSON, stream.CSV}

var resumeParam = Param{Name: "after", About: "The number of cases that are at hand: what follows them is sent."}

func datasetRoutes() []Route {
	const base = "/v1/datasets"
	one, cases := base+"/{id}", base+"/{id}/cases"
	dataset := reflect.TypeFor[Dataset]()
	return []Route{
		{Method: http.MethodPost, Path: base, ID: "create_dataset", About: "Make a data set, without cases.", Header: []Param{onceOnly},
			Request: reflect.TypeFor[newDataset](), Response: dataset, Status: http.StatusCreated, handle: createDataset},
		{Method: http.MethodGet, Path: base, ID: "list_datasets", About: "The tenant's data sets, the newest first.",
			Query: []Param{limitParam, afterParam}, Response: reflect.TypeFor[Page[Dataset]](), Status: http.StatusOK, handle: listDatasets},
		{Method: http.MethodGet, Path: one, ID: "get_dataset", About: "A data set, and how many cases it has.", Header: []Param{ifNoneMatch},
			Response: dataset, Status: http.StatusOK, cached: true, handle: getDataset},
		{Method: http.MethodDelete, Path: one, ID: "delete_dataset", About: "Delete a data set with its cases.", Header: []Param{mayMatch}, Status: http.StatusNoContent, handle: deleteDataset},
		{Method: http.MethodPost, Path: cases, ID: "import_cases", About: "Add cases, in chunks of 1,000 that are stored as they come.",
			Query: []Param{{Name: "at", About: "How many cases the data set has before; 0 if it is not given. Otherwise 409, and nothing is stored twice."},
				{Name: "skip", About: "How many records of the body are passed over: those that an import that was cut has stored."}}, Header: []Param{mayMatch},
			RequestTypes: streamTypes, Response: dataset, Status: http.StatusOK, Stream: true, handle: importCases},
		{Method: http.MethodGet, Path: cases, ID: "export_cases", About: "All cases, as NDJSON or CSV.", Query: []Param{resumeParam},
			ResponseTypes: streamTypes, Status: http.StatusOK, Stream: true, handle: exportCases},
	}
}

func showDataset(d db.Dataset) Dataset {
	variables := d.Variables
	if variables == nil {
		variables = []string{}
	}
	return Dataset{ID: d.ID, Object: "dataset", Name: d.Name, Variables: variables, Cases: d.Cases, ETag: datasetETag(d), Created: d.Created.UTC(), Updated: d.Updated.UTC()}
}

// datasetETag needs no count of changes: nothing of a data set changes without a case that is added, and none is taken away.
func datasetETag(d db.Dataset) string { return etagOf(d.Cases) }

func createDataset(c *call) error {
	var body newDataset
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := checkName(body.Name); err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		d, err := db.CreateDataset(c.ctx, tx, c.tenant, newID(datasetPrefix), body.Name)
		if err != nil {
			return reply{}, err
		}
		return reply{status: http.StatusCreated, body: showDataset(d), etag: datasetETag(d), location: "/v1/datasets/" + d.ID, forget: tagOf(c.tenant, d.ID)},
			c.tellDataset(tx, "created", d)
	})
}

func listDatasets(c *call) error {
	return list(c, "datasets", func(_ map[string]string, after string, limit int) ([]db.Dataset, error) {
		return db.ListDatasets(c.ctx, c.s.pool, c.tenant, after, limit)
	}, func(r db.Dataset) string { return r.ID }, showDataset)
}

// dataset reads the one that the path names.
func (c *call) dataset() (db.Dataset, error) {
	id, err := c.id(datasetPrefix)
	if err != nil {
		return db.Dataset{}, err
	}
	return db.ReadDataset(c.ctx, c.s.pool, c.tenant, id)
}

// getDataset has what a data set is, from the cache. Its cases are a stream, which the database has.
func getDataset(c *call) error {
	id, err := c.id(datasetPrefix)
	if err != nil {
		return err
	}
	return c.cached(id, "", func(ctx context.Context) (string, any, error) {
		d, err := db.ReadDataset(ctx, c.s.pool, c.tenant, id)
		return datasetETag(d), showDataset(d), err
	})
}

func deleteDataset(c *call) error {
	id, err := c.id(datasetPrefix)
	if err != nil {
		return err
	}
	return c.change(func(tx pgx.Tx) (reply, error) {
		d, err := db.LockDataset(c.ctx, tx, c.tenant, id)
		if err != nil {
			return reply{}, err
		}
		if err = c.match(datasetETag(d), false); err != nil {
			return reply{}, err
		}
		if err = db.DeleteDataset(c.ctx, tx, c.tenant, id); err != nil {
			return reply{}, err
		}
		return reply{status: http.StatusNoContent, forget: tagOf(c.tenant, id)}, c.tellDataset(tx, "deleted", d)
	})
}

// datasetChange is what is published when a data set changes: what to read again.
type datasetChange struct {
	Event string `json:"event"` // created, updated, deleted
	ID    string `json:"id"`
	Cases int64  `json:"cases"`
	ETag  string `json:"etag"`
}

// tellDataset tells of a change, in its transaction.
func (c *call) tellDataset(tx pgx.Tx, event string, d db.Dataset) error {
	return tell(c.ctx, tx, DatasetNamespace, c.tenant, datasetChange{Event: event, ID: d.ID, Cases: d.Cases, ETag: datasetETag(d)})
}

func exportCases(c *call) error {
	after, err := c.resumeAfter()
	if err != nil {
		return err
	}
	d, err := c.dataset()
	if err != nil {
		return err
	}
	out := stream.New(c.w, stream.Type(c.r), append(slices.Clone(d.Variables), "expected"), c.s.cfg.Chunk)
	return out.Copy(func(limit int) (more bool, err error) {
		rows := 0
		err = db.EachCase(c.ctx, c.s.pool, c.tenant, d.ID, after, limit, func(one db.Case) bool {
			var texts []string
			if out.IsCSV() {
				texts = csvOf(d.Variables, one)
			}
			var room bool
			room, err = out.Row(Case{Variables: one.Variables, Expected: one.Expected}, texts)
			after, more = one.N, !room
			rows++
			return room && err == nil
		})
		return more || rows == limit, err
	})
}

func csvOf(variables []string, one db.Case) []string {
	texts := make([]string, 0, len(variables)+1)
	for _, name := range variables {
		texts = append(texts, one.Variables[name])
	}
	if one.Expected == nil {
		return append(texts, "")
	}
	return append(texts, *one.Expected)
}

// resumeAfter reads how much of an export is at hand.
func (c *call) resumeAfter() (int64, error) {
	query, err := c.query()
	if err != nil {
		return 0, err
	}
	return number(query, "after")
}

func number(query map[string]string, name string) (int64, error) {
	v, ok := query[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, badParameter(name, "is not a number from 0 on")
	}
	return n, nil
}
