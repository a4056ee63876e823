package deploy

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// strictly decodes one document; an unknown or doubled key is a mistake.
func strictly[T any](t *testing.T, path string) (v T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(read(t, path)), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

// environment is a container's, and demands that what it names is there.
func environment(t *testing.T, c corev1.Container) settings {
	t.Helper()
	s := settings{}
	for _, e := range c.Env {
		if _, twice := s[e.Name]; twice {
			t.Errorf("%s is set twice", e.Name)
		}
		s[e.Name] = e.Value
	}
	s.check(t)
	s.checkRequired(t)
	return s
}

// probes demands that only readiness looks at the database for as long as the container lives.
func probes(t *testing.T, c corev1.Container, startup string) {
	t.Helper()
	port := c.Ports[0]
	for name, want := range map[string]string{"startup": startup, "liveness": "/livez"} {
		p := c.StartupProbe
		if name == "liveness" {
			p = c.LivenessProbe
		}
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != want {
			t.Fatalf("%s probe %+v", name, p)
		}
		if at := p.HTTPGet.Port; at.IntValue() != int(port.ContainerPort) && at.String() != port.Name {
			t.Errorf("the %s probe asks port %s", name, at.String())
		}
	}
}

// adapterValues are the values of prometheus-adapter's chart that we may use.
type adapterValues struct {
	Prometheus struct {
		URL  string `json:"url"`
		Port int    `json:"port"`
	} `json:"prometheus"`
	Rules struct {
		Default bool `json:"default"`
		Custom  []struct {
			SeriesQuery string `json:"seriesQuery"`
			Resources   struct {
				Overrides map[string]struct {
					Resource string `json:"resource"`
				} `json:"overrides"`
			} `json:"resources"`
			MetricsQuery string `json:"metricsQuery"`
		} `json:"custom"`
	} `json:"rules"`
}

const manifests = "infra/deploy/kubernetes/"

func TestKubernetes(t *testing.T) {
	d := strictly[appsv1.Deployment](t, manifests+"deployment.yaml")
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	env := environment(t, c)
	env.knowsClients(t, "X-Forwarded-For")
	probes(t, c, "/livez")
	if p := c.ReadinessProbe; p == nil || p.HTTPGet.Path != "/readyz" {
		t.Errorf("readiness probe %+v", p)
	}
	if s := c.SecurityContext; !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || s.Capabilities.Drop[0] != "ALL" ||
		!*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser == 0 {
		t.Errorf("security %+v %+v", s, pod.SecurityContext)
	}
	stopping := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds)*time.Second + env.duration(t, "FORGEWIRE_SHUTDOWN_TIMEOUT")
	if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace < stopping+5*time.Second {
		t.Errorf("a grace of %v for %v", grace, stopping)
	}
	if port, metrics := d.Spec.Template.Annotations["prometheus.io/port"], c.Ports[1]; port != env["FORGEWIRE_METRICS_PORT"] || strconv.Itoa(int(metrics.ContainerPort)) != port {
		t.Errorf("port %s is scraped, of port %d and a replica's %s", port, metrics.ContainerPort, env["FORGEWIRE_METRICS_PORT"])
	}
	for name, path := range env {
		if dir := filepath.Dir(path); filepath.IsAbs(path) && dir != c.VolumeMounts[0].MountPath {
			t.Errorf("%s=%s is not in the mounted folder", name, path)
		}
	}
	if d.Spec.Replicas != nil {
		t.Error("the autoscaler's number of replicas would be undone by each apply")
	}

	labels := d.Spec.Template.Labels
	matches := func(what string, selector map[string]string) {
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%s, which the pods are not", what, k, v)
			}
		}
		if len(selector) == 0 {
			t.Errorf("%s selects nothing", what)
		}
	}
	matches("the deployment", d.Spec.Selector.MatchLabels)
	service := strictly[corev1.Service](t, manifests+"service.yaml")
	matches("the service", service.Spec.Selector)
	if service.Spec.Ports[0].TargetPort.String() != c.Ports[0].Name {
		t.Error("the service leads to another port")
	}
	pdb := strictly[policyv1.PodDisruptionBudget](t, manifests+"pdb.yaml")
	matches("the disruption budget", pdb.Spec.Selector.MatchLabels)

	hpa := strictly[autoscalingv2.HorizontalPodAutoscaler](t, manifests+"hpa.yaml")
	if ref := hpa.Spec.ScaleTargetRef; ref.Kind != d.Kind || ref.Name != d.Name || ref.APIVersion != d.APIVersion {
		t.Errorf("the autoscaler scales %+v", ref)
	}
	m := hpa.Spec.Metrics[0].Pods
	adapter := strictly[adapterValues](t, "infra/deploy/prometheus/adapter.yaml")
	if rule := adapter.Rules.Custom[0]; !strings.HasPrefix(rule.SeriesQuery, m.Metric.Name+"{") || rule.Resources.Overrides["pod"].Resource != "pod" {
		t.Errorf("the rule for the adapter does not offer %s of a pod: %+v", m.Metric.Name, rule)
	}
	// A rollout adds one replica.
	env.countsConnections(t, manifests+"deployment.yaml", int(hpa.Spec.MaxReplicas)+d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue())
	if m == nil || m.Target.AverageValue.Value() >= int64(env.number(t, "FORGEWIRE_MAX_CONNECTIONS")) {
		t.Errorf("the autoscaler would wait until replicas refuse connections: %+v", m)
	}
	for _, kind := range []struct{ have, want metav1.TypeMeta }{
		{d.TypeMeta, metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}},
		{service.TypeMeta, metav1.TypeMeta{Kind: "Service", APIVersion: "v1"}},
		{pdb.TypeMeta, metav1.TypeMeta{Kind: "PodDisruptionBudget", APIVersion: "policy/v1"}},
		{hpa.TypeMeta, metav1.TypeMeta{Kind: "HorizontalPodAutoscaler", APIVersion: "autoscaling/v2"}},
	} {
		if kind.have != kind.want {
			t.Errorf("%+v, want %+v", kind.have, kind.want)
		}
	}
}

// Every manifest is listed, and each listed one is there.
func TestKustomization(t *testing.T) {
	k := strictly[struct {
		metav1.TypeMeta `json:",inline"`
		Resources       []string `json:"resources"`
		Images          []struct {
			Name    string `json:"name"`
			NewName string `json:"newName"`
			NewTag  string `json:"newTag"`
		} `json:"images"`
	}](t, manifests+"kustomization.yaml")
	files, err := filepath.Glob(filepath.Join(root, manifests, "*.yaml"))
	if err != nil || len(files) != len(k.Resources)+1 {
		t.Errorf("%d files for %v, %v", len(files), k.Resources, err)
	}
	for _, f := range k.Resources {
		read(t, manifests+f)
	}
	if len(k.Images) != 1 || k.Images[0].Name != "forgewire" {
		t.Errorf("images %+v", k.Images)
	}
}
