package deploy

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

const composeFolder = root + "/infra/deploy"

// compose loads the file as Docker does: the schema, the interpolation, the references.
func compose(t *testing.T, env map[string]string) (*types.Project, error) {
	t.Helper()
	dir, err := filepath.Abs(composeFolder)
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}},
		Environment: maps.Clone(env), // the loader adds to it
	})
}

func TestCompose(t *testing.T) {
	secrets := map[string]string{"POSTGRES_PASSWORD": "p", "GRAFANA_PASSWORD": "g"}
	p, err := compose(t, secrets)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"forgewire-a", "forgewire-b"} {
		s, ok := p.Services[name]
		if !ok {
			t.Fatalf("no service %s", name)
		}
		env := settings{}
		for k, v := range s.Environment {
			env[k] = *v
		}
		env.check(t)
		env.checkRequired(t)
		env.knowsClients(t, "X-Forwarded-For")
		for _, secret := range s.Secrets {
			if !strings.Contains(read(t, "infra/deploy/compose.yaml"), "/run/secrets/"+secret.Source) {
				t.Errorf("%s: the secret %s is mounted and not used", name, secret.Source)
			}
		}
		if grace := env.duration(t, "FORGEWIRE_SHUTDOWN_TIMEOUT"); time.Duration(*s.StopGracePeriod) < grace+5*time.Second {
			t.Errorf("%s: a grace of %v", name, grace)
		}
		if !s.ReadOnly || s.CapDrop[0] != "ALL" {
			t.Errorf("%s may write or has capabilities", name)
		}
		if !strings.Contains(read(t, "infra/deploy/Caddyfile"), name+":8080") || !strings.Contains(read(t, "infra/deploy/prometheus/prometheus.yml"), name+":"+env["FORGEWIRE_METRICS_PORT"]) {
			t.Errorf("Caddy or Prometheus does not know %s", name)
		}
	}
	dir, err := filepath.Abs(composeFolder)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range p.Services {
		for _, secret := range s.Secrets {
			// `docker compose up` refuses any other in a service that is read-only; the loader does not.
			if p.Secrets[secret.Source].File == "" {
				t.Errorf("%s: the secret %s is not from a file", name, secret.Source)
			}
		}
		if s.Build == nil && !regexp.MustCompile(`:v?\d`).MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		for _, v := range s.Volumes {
			// The dashboard and the alerts come with the metrics.
			if v.Type != types.VolumeTypeBind || filepath.Base(v.Source) == "dashboard.json" {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil || !strings.HasPrefix(v.Source, dir) {
				t.Errorf("%s mounts %s: %v", name, v.Source, err)
			}
		}
	}
	for value, site := range map[string]string{"": ":80", "push.example.com": "push.example.com"} {
		with := maps.Clone(secrets)
		with["FORGEWIRE_SITE"] = value
		if p, err = compose(t, with); err != nil {
			t.Fatal(err)
		}
		if got := p.Services["caddy"].Environment["FORGEWIRE_SITE"]; got == nil || *got != site {
			t.Errorf("Caddy gets the site %v of %q", got, value)
		}
	}
	// Each secret is asked for by name where it is missing, rather than empty.
	for name := range secrets {
		without := map[string]string{}
		for k, v := range secrets {
			if k != name {
				without[k] = v
			}
		}
		if _, err := compose(t, without); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// What the first lines of the file have one type makes everything that it needs, and secrets that the replica's user, who
// is neither root nor the owner, may read.
func TestComposeIsPrepared(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "infra/deploy"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "set -e\n"
	for _, line := range regexp.MustCompile(`(?m)^#   (.*)$`).FindAllStringSubmatch(read(t, "infra/deploy/compose.yaml"), -1) {
		if !strings.HasPrefix(line[1], "docker ") {
			script += line[1] + "\n"
		}
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env := map[string]string{}
	text, err := os.ReadFile(filepath.Join(dir, "infra/deploy/.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[name] = value
	}
	p, err := compose(t, env)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range p.Secrets {
		path := filepath.Join(dir, strings.TrimPrefix(secret.File, here))
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o004 == 0 || info.Size() < 32 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if info, err = os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s lies open on the machine: %v, %v", name, info, err)
		}
		if !strings.Contains(read(t, ".gitignore"), filepath.Dir(strings.TrimPrefix(secret.File, here))) {
			t.Errorf("git would take %s", name)
		}
	}
}

// The part of Prometheus' configuration that we use: an unknown key is a mistake.
func TestPrometheus(t *testing.T) {
	c := strictly[struct {
		Global struct {
			ScrapeInterval     string `json:"scrape_interval"`
			EvaluationInterval string `json:"evaluation_interval"`
		} `json:"global"`
		RuleFiles     []string `json:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `json:"job_name"`
			MetricsPath   string `json:"metrics_path"`
			StaticConfigs []struct {
				Targets []string `json:"targets"`
			} `json:"static_configs"`
		} `json:"scrape_configs"`
	}](t, "infra/deploy/prometheus/prometheus.yml")
	if len(c.RuleFiles) != 1 || c.RuleFiles[0] != "alerts.yml" || len(c.ScrapeConfigs[0].StaticConfigs[0].Targets) != 2 {
		t.Errorf("%+v", c)
	}
}

// Grafana finds the Prometheus of compose.yaml, and the dashboard where compose.yaml mounts it.
func TestGrafanaProvisioning(t *testing.T) {
	var sources struct {
		APIVersion  int `json:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool `json:"isDefault"`
		} `json:"datasources"`
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "infra/deploy/grafana/provisioning/datasources/prometheus.yaml")), &sources); err != nil {
		t.Fatal(err)
	}
	if sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("%+v", sources)
	}
	var boards struct {
		APIVersion int `json:"apiVersion"`
		Providers  []struct {
			Name, Type string
			Options    struct{ Path string }
		} `json:"providers"`
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "infra/deploy/grafana/provisioning/dashboards/forgewire.yaml")), &boards); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(read(t, "infra/deploy/compose.yaml"), ":"+boards.Providers[0].Options.Path+"/forgewire.json:ro") {
		t.Errorf("compose.yaml mounts no dashboard in %s", boards.Providers[0].Options.Path)
	}
}
