package resources

import (
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/jackc/pgx/v5"

	"forgewire/db"
	"forgewire/handlers/problem"
)

func createVersion(c *call) error {
	var body newVersion
	if err := c.decode(&body); err != nil {
		return err
	}
	variables, err := variablesOf(body.Template)
	if err != nil {
		return err
	}
	return c.changePrompt(false, "updated", http.StatusCreated, func(tx pgx.Tx, p db.Prompt) (db.Prompt, error) {
		return db.AddPromptVersion(c.ctx, tx, c.tenant, p, db.PromptVersion{Template: body.Template, Variables: variables, KeyID: c.caller.KeyID})
	})
}

func listVersions(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	id, err := c.promptID()
	if err != nil {
		return err
	}
	limit, after, err := pageOf(query, id)
	if err != nil {
		return err
	}
	var before int64
	if after != "" {
		if before, err = strconv.ParseInt(after, 10, 32); err != nil || before < 1 {
			return badParameter("after", "is not what a page of this list said under after")
		}
	}
	versions, err := db.ListPromptVersions(c.ctx, c.s.pool, c.tenant, id, int32(before), limit+1)
	if err != nil {
		return err
	}
	if len(versions) == 0 && before == 0 { // each prompt has one
		return notFound
	}
	return c.show(newPage(versions, limit, id, func(v db.PromptVersion) string { return strconv.Itoa(int(v.Version)) }, showVersion))
}

func showVersion(v db.PromptVersion) Version {
	shown := Version{Object: "prompt.version", Version: v.Version, Template: v.Template, Variables: v.Variables, Created: v.Made.UTC()}
	if v.KeyID != "" {
		shown.KeyID = &v.KeyID
	}
	return shown
}

func setLabel(c *call) error {
	var body labelled
	if err := c.decode(&body); err != nil {
		return err
	}
	label, err := c.label()
	if err != nil {
		return err
	}
	return c.changePrompt(true, "updated", http.StatusOK, func(tx pgx.Tx, p db.Prompt) (db.Prompt, error) {
		_, known := p.Labels[label]
		if !known && len(p.Labels) >= maxLabels {
			return p, problem.New(http.StatusConflict, "too_many_labels", "the prompt has as many labels as it may have")
		}
		if body.Version < 1 || body.Version > p.Newest {
			p := problem.New(http.StatusUnprocessableEntity, "no_such_version", "the prompt has no such version")
			p.Field = "version"
			return db.Prompt{}, p
		}
		return db.SetPromptLabel(c.ctx, tx, c.tenant, p.ID, label, body.Version)
	})
}

const maxLabels = 32

func dropLabel(c *call) error {
	label, err := c.label()
	if err != nil {
		return err
	}
	return c.changePrompt(true, "updated", http.StatusOK, func(tx pgx.Tx, p db.Prompt) (db.Prompt, error) {
		return db.DropPromptLabel(c.ctx, tx, c.tenant, p.ID, label)
	})
}

func (c *call) label() (string, error) {
	label := chi.URLParam(c.r, "label")
	if !isLabel(label) {
		return "", problem.Bad("invalid_label", "label", "a label has 1 to 64 small letters, digits and any of _-.")
	}
	return label, nil
}

func renderPrompt(c *call) error {
	var body toRender
	if err := c.decode(&body); err != nil {
		return err
	}
	version := ""
	if body.Version != 0 {
		version = strconv.Itoa(int(body.Version))
	}
	id, choice, err := c.promptChoice(version, body.Label)
	if err != nil {
		return err
	}
	p, err := db.ReadPrompt(c.ctx, c.s.pool, c.tenant, id, choice)
	if err != nil {
		return err
	}
	text, err := render(p.Template, p.Variables, body.Variables)
	if err != nil {
		return err
	}
	return c.show(Rendered{ID: p.ID, Version: p.Version, Text: text})
}
