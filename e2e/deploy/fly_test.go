package deploy

import (
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// flyConfig has the documented keys of fly.toml that we may use: an unknown one is a mistake.
type flyConfig struct {
	App           string            `toml:"app"`
	PrimaryRegion string            `toml:"primary_region"`
	KillSignal    string            `toml:"kill_signal"`
	KillTimeout   int               `toml:"kill_timeout"` // seconds
	Env           map[string]string `toml:"env"`
	Deploy        struct {
		ReleaseCommand string `toml:"release_command"`
		Strategy       string `toml:"strategy"`
	} `toml:"deploy"`
	HTTPService struct {
		InternalPort       int    `toml:"internal_port"`
		ForceHTTPS         bool   `toml:"force_https"`
		AutoStopMachines   string `toml:"auto_stop_machines"`
		AutoStartMachines  bool   `toml:"auto_start_machines"`
		MinMachinesRunning int    `toml:"min_machines_running"`
		Concurrency        struct {
			Type      string `toml:"type"`
			SoftLimit int    `toml:"soft_limit"`
			HardLimit int    `toml:"hard_limit"`
		} `toml:"concurrency"`
		Checks []struct {
			GracePeriod string `toml:"grace_period"`
			Interval    string `toml:"interval"`
			Timeout     string `toml:"timeout"`
			Method      string `toml:"method"`
			Path        string `toml:"path"`
		} `toml:"checks"`
	} `toml:"http_service"`
	Metrics struct {
		Port int    `toml:"port"`
		Path string `toml:"path"`
	} `toml:"metrics"`
	VM []struct {
		Size   string `toml:"size"`
		Memory string `toml:"memory"`
	} `toml:"vm"`
}

func TestFly(t *testing.T) {
	var f flyConfig
	if err := toml.NewDecoder(strings.NewReader(read(t, "fly.toml"))).DisallowUnknownFields().Decode(&f); err != nil {
		t.Fatal(err)
	}
	env := settings(f.Env)
	env.check(t) // what is required is secret, and not in the file
	env.knowsClients(t, "Fly-Client-IP")
	if grace := env.duration(t, "FORGEWIRE_SHUTDOWN_TIMEOUT"); time.Duration(f.KillTimeout)*time.Second < grace+5*time.Second || f.KillTimeout > 300 {
		t.Errorf("kill_timeout %d s for a grace of %v", f.KillTimeout, grace)
	}
	if f.KillSignal != "SIGTERM" || f.Deploy.ReleaseCommand != "migrate" {
		t.Errorf("kill_signal %q, release_command %q", f.KillSignal, f.Deploy.ReleaseCommand)
	}
	s := f.HTTPService
	if c := s.Concurrency; c.Type != "connections" || c.HardLimit > env.number(t, "FORGEWIRE_MAX_CONNECTIONS") || c.SoftLimit >= c.HardLimit {
		t.Errorf("concurrency %+v for %s connections", c, env["FORGEWIRE_MAX_CONNECTIONS"])
	}
	// PORT asks a scraper for the key, and Fly's has none.
	if port, metrics := env.number(t, "PORT"), env.number(t, "FORGEWIRE_METRICS_PORT"); s.InternalPort != port || f.Metrics.Port != metrics || metrics == port {
		t.Errorf("ports %d and %d for %d and %d", s.InternalPort, f.Metrics.Port, port, metrics)
	}
	if s.AutoStopMachines != "suspend" || !s.AutoStartMachines || s.MinMachinesRunning != 0 {
		t.Errorf("it does not scale to zero: %+v", s)
	}
	if len(s.Checks) != 1 || s.Checks[0].Path != "/readyz" {
		t.Errorf("checks %+v", s.Checks)
	}
	for _, d := range []string{s.Checks[0].GracePeriod, s.Checks[0].Interval, s.Checks[0].Timeout} {
		if _, err := time.ParseDuration(d); err != nil {
			t.Error(err)
		}
	}
}
