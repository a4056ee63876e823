package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"forgewire/realtime"
)

const (
	figuresName    = "figures"
	figuresChannel = realtime.OperatorNamespace + ":" + figuresName

	figuresEvery  = 2 * time.Second
	figuresWithin = 5 * time.Second // to gather them once
)

// figures are what is shown every two seconds.
type figures struct {
	At      time.Time `json:"at"`
	Replica string    `json:"replica"` // that the dashboard is connected to
	Cluster any       `json:"cluster"` // as GET /v1/stats?scope=cluster has it
}

// Run shows the figures to those who watch on this replica, until ctx ends. While nobody does, it only waits.
func (a *Admin) Run(ctx context.Context) error {
	for {
		select {
		case <-a.cfg.Node.Watched():
		case <-ctx.Done():
			return nil
		}
		a.showWhileWatched(ctx)
	}
}

func (a *Admin) showWhileWatched(ctx context.Context) {
	ticker := time.NewTicker(figuresEvery)
	defer ticker.Stop()
	for a.cfg.Node.Watchers(figuresName) > 0 {
		if err := a.show(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("the dashboard's figures could not be gathered, trying again", "error", err)
		}
		select {
		case <-ticker.C:
		case <-a.cfg.Node.Watched(): // one more, who need not wait
		case <-ctx.Done():
			return
		}
	}
}

func (a *Admin) show(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, figuresWithin)
	defer cancel()
	cluster, err := a.figures(ctx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(figures{At: time.Now(), Replica: a.cfg.Node.Info().ID, Cluster: cluster})
	if err != nil {
		return fmt.Errorf("encode the figures: %w", err)
	}
	a.cfg.Node.Show(figuresName, b)
	return nil
}
