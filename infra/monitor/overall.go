package monitor

import "fmt"

// Overall describes the last requests of all routes together. The figures must be Mergeable, and not yet Shown.
func (s Stats) Overall() (Summary, error) {
	windows := make([]string, 0, len(s.Routes))
	for _, r := range s.Routes {
		windows = append(windows, r.WindowHist)
	}
	all, err := mergeEncoded(windows...)
	if err != nil {
		return Summary{}, fmt.Errorf("sum up the routes: %w", err)
	}
	return summaryOf(all), nil
}
