package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// deployed is how a file that we ship starts a replica, and what its platform asks of it, by the container's port. Whether
// the platform takes the file is e2e/deploy's to check.
type deployed struct {
	before  []string // what runs first, and to its end; nil for nothing
	command []string
	env     map[string]string
	probes  []string // in order, as "8080/livez"
	metrics string
	figure  string // a metric that something scales on, or ""
}

// The environment of each file starts the real binary, which answers what the file has its platform ask.
func TestDeployFilesStartReplicas(t *testing.T) {
	for name, read := range map[string]func(*testing.T) deployed{
		"fly.toml": flyFile, "cloudrun.yaml": cloudRunFile, "compose.yaml": composeFile, "kubernetes": kubernetesFiles,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := read(t)
			r, ports := d.replica(t, emptyDatabase(t, sharedServer(t)))
			ask := func(where string) (status int, body string, err error) {
				port, path, _ := strings.Cut(where, "/")
				at := ports[port]
				if at == 0 {
					t.Fatalf("it is asked for %s, and its environment has nothing listen there", where)
				}
				res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", at, path))
				if err != nil {
					return 0, "", err
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				return res.StatusCode, string(b), err
			}
			if d.before != nil {
				cmd := exec.Command(forgewire(t), d.before...)
				cmd.Env = r.env
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", d.before, err, out)
				}
			}
			r.start()
			for _, where := range append(slices.Clone(d.probes), "8080/readyz") {
				until(t, time.Minute, "a good answer from "+where, func() string {
					if !r.running() {
						t.Fatalf("it ended: %v", r.err)
					}
					if status, body, err := ask(where); err != nil || status != http.StatusOK {
						return fmt.Sprint(status, body, err)
					}
					return ""
				})
			}
			status, body, err := ask(d.metrics)
			if err != nil || status != http.StatusOK || !strings.Contains(body, "\nforgewire_node_build{") || !strings.Contains(body, "\n"+d.figure) {
				t.Errorf("a scrape of %s: %d, %v, and it should have %q:\n%.300s", d.metrics, status, err, d.figure, body)
			}
			if status, _, err = ask("8080/metrics"); err != nil || status != http.StatusNotFound {
				t.Errorf("where clients come in there are metrics too: %d, %v", status, err)
			}
			r.term()
		})
	}
}

// replica has the file's environment, with secrets that fit, and ports of this machine in place of the container's.
func (d deployed) replica(t *testing.T, database string) (r *replica, ports map[string]int) {
	t.Helper()
	port := freePort(t)
	r = &replica{t: t, name: "the replica", addr: fmt.Sprintf("127.0.0.1:%d", port), log: &logBuffer{}, command: append([]string{forgewire(t)}, d.command...)}
	t.Cleanup(r.cleanup)
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "PORT": "8080"}
	for k, v := range d.env {
		env[k] = v
	}
	ports = map[string]int{env["PORT"]: port}
	env["PORT"] = fmt.Sprint(port)
	if metrics := env["FORGEWIRE_METRICS_PORT"]; metrics != "" {
		ports[metrics] = freePort(t)
		env["FORGEWIRE_METRICS_PORT"] = fmt.Sprint(ports[metrics])
	}
	for name, secret := range map[string]string{"DATABASE_URL": database, "FORGEWIRE_API_KEY": apiKey, "FORGEWIRE_TOKEN_SECRET": tokenSecret} {
		if file := env[name+"_FILE"]; file != "" {
			env[name+"_FILE"] = place(t, path.Base(file), secret+"\n")
		} else {
			env[name] = secret
		}
	}
	if env["VALKEY_URL"] != "" { // one that is away is a cache that misses
		env["VALKEY_URL"] = fmt.Sprintf("redis://127.0.0.1:%d/0", freePort(t))
	}
	for k, v := range env {
		r.env = append(r.env, k+"="+v)
	}
	return r, ports
}

// imageCommand is the Dockerfile's CMD.
var imageCommand = []string{"serve"}

func flyFile(t *testing.T) deployed {
	text, err := os.ReadFile("../fly.toml")
	if err != nil {
		t.Fatal(err)
	}
	d := deployed{command: imageCommand, env: map[string]string{}}
	of := map[string]string{} // by section and key; lists of tables have one each
	section := ""
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:\[+([\w.]+)\]+|(\w+) = "?([^"\n#]+?)"?\s*(?:#.*)?)$`).FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] != "":
			section = m[1]
		case section == "env":
			d.env[m[2]] = m[3]
		default:
			of[section+" "+m[2]] = m[3]
		}
	}
	d.before = []string{of["deploy release_command"]}
	d.probes = []string{of["http_service internal_port"] + of["http_service.checks path"]}
	d.metrics = of["metrics port"] + of["metrics path"]
	return d
}

// pod is what Cloud Run and Kubernetes have in common.
type pod struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		Containers []struct {
			Args  []string
			Ports []struct {
				Name string
				Port string `yaml:"containerPort"`
			}
			Env       []struct{ Name, Value string }
			Startup   probe `yaml:"startupProbe"`
			Liveness  probe `yaml:"livenessProbe"`
			Readiness probe `yaml:"readinessProbe"`
		}
	}
}

type probe struct {
	Get struct{ Path, Port string } `yaml:"httpGet"`
}

// podFile reads what holds a pod's template.
func podFile(t *testing.T, name string) (pod, deployed) {
	t.Helper()
	var file struct{ Spec struct{ Template pod } }
	if err := yaml.Unmarshal([]byte(shipped(t, name)), &file); err != nil {
		t.Fatal(err)
	}
	c := file.Spec.Template.Spec.Containers[0]
	d := deployed{command: c.Args, env: map[string]string{}}
	for _, e := range c.Env {
		if e.Value != "" {
			d.env[e.Name] = e.Value
		}
	}
	for _, p := range []probe{c.Startup, c.Liveness, c.Readiness} {
		at := p.Get.Port
		for _, port := range c.Ports {
			if at == port.Name {
				at = port.Port
			}
		}
		if at != "" {
			d.probes = append(d.probes, at+p.Get.Path)
		}
	}
	return file.Spec.Template, d
}

func cloudRunFile(t *testing.T) deployed {
	_, d := podFile(t, "cloudrun.yaml")
	d.before = []string{"migrate"}                           // docs/operations.md has a job for it
	d.metrics = d.env["FORGEWIRE_METRICS_PORT"] + "/metrics" // for a sidecar, which shares the container's network
	return d
}

func kubernetesFiles(t *testing.T) deployed {
	template, d := podFile(t, "kubernetes/deployment.yaml")
	d.metrics = template.Metadata.Annotations["prometheus.io/port"] + template.Metadata.Annotations["prometheus.io/path"]
	var hpa struct {
		Spec struct {
			Metrics []struct {
				Pods struct{ Metric struct{ Name string } }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(shipped(t, "kubernetes/hpa.yaml")), &hpa); err != nil {
		t.Fatal(err)
	}
	d.figure = hpa.Spec.Metrics[0].Pods.Metric.Name + " "
	return d
}

func composeFile(t *testing.T) deployed {
	var file struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
		}
	}
	if err := yaml.Unmarshal([]byte(shipped(t, "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	d := deployed{before: file.Services["migrate"].Command, command: imageCommand, env: file.Services["forgewire-a"].Environment}
	var prometheus struct {
		Jobs []struct {
			Path    string                       `yaml:"metrics_path"`
			Configs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(shipped(t, "prometheus/prometheus.yml")), &prometheus); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(prometheus.Jobs[0].Configs[0].Targets[0], ":")
	d.metrics = port + prometheus.Jobs[0].Path
	caddy := shipped(t, "Caddyfile")
	upstream := regexp.MustCompile(`forgewire-a:(\d+)`).FindStringSubmatch(caddy)
	health := regexp.MustCompile(`health_uri (\S+)`).FindStringSubmatch(caddy)
	d.probes = []string{"8080/livez", upstream[1] + health[1]} // the first is the Dockerfile's HEALTHCHECK
	return d
}
