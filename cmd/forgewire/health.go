package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"forgewire/infra/config"
)

type healthCommand struct {
	Live    bool          `help:"Only ask whether the process runs (/livez), not whether it can serve (/readyz)."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer."`
}

func (healthCommand) Help() string {
	return "Asks the replica on PORT of this machine, and fails if it is not well. For containers, whose image holds no other program that could ask."
}

// maxHealth bounds what is read of an answer, which may come from a stranger on our port.
const maxHealth = 4096

func (c *healthCommand) Run(ctx context.Context) error {
	cfg, err := config.LoadOnly(os.Environ())
	if err != nil {
		return err
	}
	path := "/readyz"
	if c.Live {
		path = "/livez"
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	address := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port)) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask for the health: %w", err)
	}
	// No proxy: the environment's would be asked for our own machine's health.
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return fmt.Errorf("ask for the health: %w: is it running, and on the port that PORT says?", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var answer struct{ Reason string }
	body, err := io.ReadAll(io.LimitReader(res.Body, maxHealth))
	if err != nil || json.Unmarshal(body, &answer) != nil || answer.Reason == "" {
		return fmt.Errorf("%s answered %s", path, res.Status)
	}
	return fmt.Errorf("%s answered %s: %s", path, res.Status, answer.Reason)
}
