package deploy

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cloudRunService is Knative's Service, as Cloud Run takes it: its pods are Kubernetes' own.
type cloudRunService struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ObjectMeta `json:"metadata"`
	Spec            struct {
		Template struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     struct {
				corev1.PodSpec       `json:",inline"`
				ContainerConcurrency int `json:"containerConcurrency"`
				TimeoutSeconds       int `json:"timeoutSeconds"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

// The annotations of Cloud Run's reference that we may use; a typo in one goes unseen by the platform.
var cloudRunAnnotations = map[string]bool{
	"run.googleapis.com/ingress":           true,
	"autoscaling.knative.dev/minScale":     true,
	"autoscaling.knative.dev/maxScale":     true,
	"run.googleapis.com/startup-cpu-boost": true,
	"run.googleapis.com/cpu-throttling":    true,
}

const (
	cloudRunTimeout     = 60 * time.Minute // the longest request
	cloudRunConcurrency = 1000
	cloudRunGrace       = 10 * time.Second // from SIGTERM to SIGKILL
	cloudRunStartup     = 240              // seconds: periods × failures
)

func TestCloudRun(t *testing.T) {
	s := strictly[cloudRunService](t, "infra/deploy/cloudrun.yaml")
	if s.APIVersion != "serving.knative.dev/v1" || s.Kind != "Service" || s.Metadata.Name == "" {
		t.Errorf("%s %s %q", s.APIVersion, s.Kind, s.Metadata.Name)
	}
	template := s.Spec.Template
	for _, annotations := range []map[string]string{s.Metadata.Annotations, template.Metadata.Annotations} {
		for name := range annotations {
			if !cloudRunAnnotations[name] {
				t.Errorf("unknown annotation %s", name)
			}
		}
	}
	c := template.Spec.Containers[0]
	env := environment(t, c)
	env.knowsClients(t, "X-Forwarded-For")
	probes(t, c, "/livez")
	if slices.Contains(c.Args, "--migrate") {
		t.Error("an instance without a request has no CPU to migrate")
	}
	if p := c.StartupProbe; int(p.PeriodSeconds*p.FailureThreshold) > cloudRunStartup || p.TimeoutSeconds > p.PeriodSeconds {
		t.Errorf("startup probe %+v", p)
	}
	instances, err := strconv.Atoi(template.Metadata.Annotations["autoscaling.knative.dev/maxScale"])
	if err != nil {
		t.Fatal(err)
	}
	env.countsConnections(t, "infra/deploy/cloudrun.yaml", instances)
	if strings.HasPrefix(c.Ports[0].Name, "h2") {
		t.Error("HTTP/2 to the container breaks WebSockets")
	}
	limit := time.Duration(template.Spec.TimeoutSeconds) * time.Second
	if age := env.duration(t, "FORGEWIRE_MAX_CONNECTION_AGE"); limit > cloudRunTimeout || age <= 0 || age > limit-time.Minute {
		t.Errorf("connections of %v in requests of %v", age, limit)
	}
	if n := env.number(t, "FORGEWIRE_MAX_CONNECTIONS"); template.Spec.ContainerConcurrency > cloudRunConcurrency || n >= template.Spec.ContainerConcurrency {
		t.Errorf("%d connections in %d requests", n, template.Spec.ContainerConcurrency)
	}
	if grace := env.duration(t, "FORGEWIRE_SHUTDOWN_TIMEOUT"); grace > cloudRunGrace-time.Second {
		t.Errorf("a grace of %v", grace)
	}
	// An account of its own reads each secret, and everybody reaches the service: neither is so by itself.
	account := "serviceAccount:" + template.Spec.ServiceAccountName
	for _, role := range []string{"--role roles/run.invoker --member allUsers", "--role roles/secretmanager.secretAccessor", "--member " + account, "--args migrate"} {
		if !strings.Contains(read(t, "docs/operations.md"), role) {
			t.Errorf("docs/operations.md has no %s", role)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && !strings.Contains(read(t, "docs/operations.md"), "gcloud secrets create "+e.ValueFrom.SecretKeyRef.Name+" ") {
			t.Errorf("docs/operations.md does not make the secret of %s", e.Name)
		}
	}
}
