package bench

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"regexp"
	"slices"
	"strings"
)

// htmlChart is a drawing and the names of its lines.
type htmlChart struct {
	Title  string
	SVG    template.HTML
	Legend []htmlLine
}

// htmlLine is one line's name; Class has its colour.
type htmlLine struct{ Class, Name string }

// A drawing is as wide as a phone, so that its text is readable there; a wide screen shows several beside each other.
const (
	chartWidth  = 360
	chartHeight = 210
	chartLeft   = 44
	chartRight  = 10
	chartTop    = 10
	chartBottom = 30
	barHeight   = 34 // of a row of bars: a line of text, and the bar
	lineColours = 8
)

// others are whom we compare with: they are drawn in grey.
var others = regexp.MustCompile(`centrifuge|floor|bare|naive|no cache|upstream|of the model itself|insert`)

// draw draws a table. ok is false where there is nothing to see.
func (c Chart) draw(t *Table) (out htmlChart, ok bool) {
	out.Title = c.Title
	switch c.Kind {
	case bars:
		out.SVG, ok = c.bars(t)
	case percentiles:
		out.SVG, out.Legend, ok = plot(c.percentileLines(t), percentileAxis(), c.Log)
	case lines:
		rows := c.seriesLines(t)
		out.SVG, out.Legend, ok = plot(rows, numberAxis(rows, c.X), c.Log)
	}
	return out, ok
}

// value is a row's figure or, for a distribution, the percentile after its name.
func (c Chart) value(r *Row) (v float64, unit string, ok bool) {
	if f := r.figure(c.Y); f != nil {
		return f.Value, f.Unit, true
	}
	for _, s := range shown {
		if name, found := strings.CutSuffix(c.Y, " "+s.name); found {
			if d := r.times(name); d != nil && d.Count > 0 {
				return s.of(d), "ms", true
			}
		}
	}
	return 0, "", false
}

func (c Chart) bars(t *Table) (template.HTML, bool) {
	top, n := 0.0, 0
	for _, r := range t.Rows {
		if v, _, ok := c.value(r); ok {
			top, n = max(top, v), n+1
		}
	}
	if top == 0 {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, chartWidth, n*barHeight+4)
	y := 0
	for _, r := range t.Rows {
		v, unit, ok := c.value(r)
		if !ok {
			continue
		}
		class := "f1"
		if others.MatchString(r.Name) && !strings.Contains(r.Name, "forgewire") {
			class = "f0"
		}
		fmt.Fprintf(&b, `<text x="0" y="%d">%s</text><text x="%d" y="%d" text-anchor="end" class="v">%s %s</text><rect x="0" y="%d" width="%.1f" height="12" rx="2" class="%s"/>`,
			y+13, html.EscapeString(r.Name), chartWidth, y+13, Number(v), html.EscapeString(unit), y+18, max(v/top*chartWidth, 1), class)
		y += barHeight
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), true //nolint:gosec // numbers and escaped names
}

// curve is one line: its points, x as the axis has it.
type curve struct {
	name   string
	points []point
}

type point struct {
	x, y float64
	what string // at x
}

// axis places x and names places on it.
type axis struct {
	place func(x float64) float64 // from 0 to 1
	ticks []point                 // y is not used
}

// quantiles are the places of a percentile chart, and how many values it takes for one to mean something.
var quantiles = []struct {
	name  string
	least int64
	of    func(*Times) float64
}{
	{"p50", 1, func(t *Times) float64 { return t.P50 }}, {"p75", 4, func(t *Times) float64 { return t.P75 }}, {"p90", 10, func(t *Times) float64 { return t.P90 }},
	{"p95", 20, func(t *Times) float64 { return t.P95 }}, {"p99", 100, func(t *Times) float64 { return t.P99 }}, {"p99.9", 1000, func(t *Times) float64 { return t.P999 }},
	{"p99.99", 10_000, func(t *Times) float64 { return t.P9999 }}, {"max", 1, func(t *Times) float64 { return t.Max }},
}

func percentileAxis() axis {
	a := axis{place: func(x float64) float64 { return x / float64(len(quantiles)-1) }}
	for i, q := range quantiles {
		a.ticks = append(a.ticks, point{x: float64(i), what: q.name})
	}
	return a
}

func (c Chart) percentileLines(t *Table) (out []curve) {
	for _, r := range t.Rows {
		d := r.times(c.Y)
		if d == nil || d.Count == 0 {
			continue
		}
		l := curve{name: r.Name}
		for i, q := range quantiles {
			if d.Count >= q.least {
				l.points = append(l.points, point{float64(i), q.of(d), q.name})
			}
		}
		out = append(out, l)
	}
	return out
}

func (c Chart) seriesLines(t *Table) (out []curve) {
	for _, r := range t.Rows {
		x := r.figure(c.X)
		y, _, ok := c.value(r)
		if x == nil || !ok {
			continue
		}
		i := slices.IndexFunc(out, func(l curve) bool { return l.name == r.Series })
		if i < 0 {
			i, out = len(out), append(out, curve{name: r.Series})
		}
		out[i].points = append(out[i].points, point{x.Value, y, c.X + " " + Number(x.Value)})
	}
	return out
}

// numberAxis is logarithmic where the numbers span much.
func numberAxis(rows []curve, name string) axis {
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range rows {
		for _, p := range l.points {
			low, high = min(low, p.x), max(high, p.x)
		}
	}
	if low > 0 && high > 20*low {
		a := axis{place: func(x float64) float64 { return math.Log(x/low) / math.Log(high/low) }}
		for _, v := range decades(low, high) {
			if v >= low && v <= high {
				a.ticks = append(a.ticks, point{x: v, what: short(v)})
			}
		}
		return a
	}
	a := axis{place: func(x float64) float64 { return ratio(x-low, high-low) }}
	for _, v := range evenTicks(low, high) {
		a.ticks = append(a.ticks, point{x: v, what: short(v)})
	}
	if len(a.ticks) > 0 {
		a.ticks[len(a.ticks)-1].what += " " + strings.TrimSuffix(name, "second") + map[bool]string{true: "s"}[name == "second"]
	}
	return a
}

// decades are powers of ten around an interval.
func decades(low, high float64) (out []float64) {
	for e := math.Floor(math.Log10(low)); ; e++ {
		v := math.Pow(10, e)
		out = append(out, v)
		if v >= high {
			return out
		}
	}
}

// evenTicks are up to six round numbers within an interval.
func evenTicks(low, high float64) (out []float64) {
	if high <= low {
		return []float64{low}
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/2)))
	for _, f := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*f) <= 5 {
			step *= f
			break
		}
	}
	for v := math.Ceil(low/step) * step; v <= high; v += step {
		out = append(out, v)
	}
	return out
}

// short is a number for an axis.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", digits5(v/1e6))
	case v >= 1000:
		return fmt.Sprintf("%gk", digits5(v/1e3))
	}
	return fmt.Sprintf("%g", digits5(v))
}

// plot draws lines.
func plot(rows []curve, a axis, logarithmic bool) (template.HTML, []htmlLine, bool) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range rows {
		for _, p := range l.points {
			if p.y > 0 || !logarithmic {
				low, high = min(low, p.y), max(high, p.y)
			}
		}
	}
	if len(rows) == 0 || math.IsInf(low, 0) {
		return "", nil, false
	}
	var ticks []float64
	y := func(v float64) float64 { return ratio(v, high) }
	if logarithmic {
		ticks = decades(low, high)
		bottom, top := ticks[0], ticks[len(ticks)-1]
		if bottom == top {
			top = bottom * 10
			ticks = append(ticks, top)
		}
		y = func(v float64) float64 { return math.Log(max(v, bottom)/bottom) / math.Log(top/bottom) }
	} else {
		ticks = evenTicks(0, high)
	}
	across := func(v float64) float64 { return chartLeft + a.place(v)*(chartWidth-chartLeft-chartRight) }
	down := func(v float64) float64 { return chartTop + (1-y(v))*(chartHeight-chartTop-chartBottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, chartWidth, chartHeight)
	for i, v := range ticks {
		unit := ""
		if i == len(ticks)-1 {
			unit = " ms"
		}
		fmt.Fprintf(&b, `<line class="g" x1="%d" x2="%d" y1="%.1f" y2="%.1[3]f"/><text x="%d" y="%.1f" text-anchor="end">%s%s</text>`,
			chartLeft, chartWidth-chartRight, down(v), chartLeft-4, down(v)+4, short(v), unit)
	}
	for i, p := range a.ticks {
		anchor := "middle"
		if i == len(a.ticks)-1 {
			anchor = "end"
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="%s">%s</text>`, min(across(p.x)+map[bool]float64{true: chartRight}[anchor == "end"], chartWidth), chartHeight-10, anchor, html.EscapeString(p.what))
	}
	var legend []htmlLine
	for i, l := range rows {
		class := fmt.Sprintf("c%d", 1+i%lineColours)
		legend = append(legend, htmlLine{class, l.name})
		var path strings.Builder
		for _, p := range l.points {
			fmt.Fprintf(&path, "%.1f,%.1f ", across(p.x), down(p.y))
		}
		fmt.Fprintf(&b, `<polyline class="%s" points="%s"/>`, class, strings.TrimSpace(path.String()))
		for _, p := range l.points {
			fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%.1f" r="2.5"><title>%s, %s: %s ms</title></circle>`, class, across(p.x), down(p.y),
				html.EscapeString(l.name), html.EscapeString(p.what), Number(p.y))
		}
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), legend, true //nolint:gosec // numbers and escaped names
}
