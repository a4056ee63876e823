package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"strings"
)

// page is the report's template: one file, nothing of which comes from elsewhere.
//
//go:embed report.html
var page string

// WriteHTML writes the report for people with a browser, as one self-contained file.
func (r *Report) WriteHTML(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err = r.html(f); err != nil {
		f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// htmlTable is a table as the template shows it.
type htmlTable struct {
	*Table
	Head  []string
	Cells [][]htmlCell
	SVG   []htmlChart
}

// htmlCell says whether it is there to be looked at.
type htmlCell struct {
	Text string
	Bad  bool
}

func (r *Report) html(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{"tables": htmlTables, "colours": func() []int { return []int{1, 2, 3, 4, 5, 6, 7, 8} }, "duration": func(seconds float64) string {
		return fmt.Sprintf("%d:%02d min", int(seconds)/60, int(seconds)%60)
	}}).Parse(page)
	if err != nil {
		return fmt.Errorf("read the report's template: %w", err)
	}
	if err = t.Execute(w, r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func htmlTables(r *Result) (out []htmlTable) {
	for _, t := range r.Tables {
		h := htmlTable{Table: t}
		for _, c := range t.Charts {
			if drawn, ok := c.draw(t); ok {
				h.SVG = append(h.SVG, drawn)
			}
		}
		if !t.Drawn {
			head, body := t.cells()
			h.Head = head
			for _, row := range body {
				cells := make([]htmlCell, len(row))
				for i, text := range row {
					cells[i] = htmlCell{Text: text, Bad: head[i] == "errors" && text != "" || head[i] == "success" && text != "" && !strings.HasPrefix(text, "100 ")}
				}
				h.Cells = append(h.Cells, cells)
			}
		}
		out = append(out, h)
	}
	return out
}
