package deploy

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// instructions are a Dockerfile's lines, without comments and with continued ones joined.
func instructions(t *testing.T) (lines []string) {
	t.Helper()
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(read(t, "Dockerfile"), "")
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// The rules of the image, and those of hadolint that concern it.
func TestDockerfile(t *testing.T) {
	lines := instructions(t)
	pinned := regexp.MustCompile(`^FROM --platform=\$BUILDPLATFORM \S+:\S+@sha256:[0-9a-f]{64} AS \w+$`)
	has := map[string]string{}
	for _, line := range lines {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "FROM":
			if rest != "scratch" && !pinned.MatchString(line) {
				t.Errorf("not pinned by its digest: %s", line)
			}
			has = map[string]string{} // the last stage counts
		case "ADD", "MAINTAINER", "VOLUME":
			t.Errorf("not wanted: %s", line)
		case "RUN":
			if strings.Contains(rest, "sudo") || strings.Contains(rest, "apt") || strings.Contains(rest, "curl") {
				t.Errorf("the build takes what go.sum does not pin: %s", line)
			}
		case "ENTRYPOINT", "CMD":
			if !strings.HasPrefix(rest, `["`) {
				t.Errorf("not in exec form, and the image has no shell: %s", line)
			}
		case "ARG", "ENV", "LABEL", "COPY", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK":
		default:
			t.Errorf("unknown instruction: %s", line)
		}
		has[word] += rest
	}
	for word, want := range map[string]string{
		"USER":        "65532:65532", // a number, which runAsNonRoot can check
		"STOPSIGNAL":  "SIGTERM",
		"ENTRYPOINT":  `["/forgewire"]`,
		"CMD":         `["serve"]`,
		"HEALTHCHECK": `--interval=15s --timeout=3s --start-period=10s CMD ["/forgewire", "health", "--live"]`,
	} {
		if has[word] != want {
			t.Errorf("%s %s, want %s", word, has[word], want)
		}
	}
	if !strings.Contains(has["LABEL"], `org.opencontainers.image.version="$VERSION"`) {
		t.Errorf("labels %s", has["LABEL"])
	}
}

// Docker's own store takes one platform and no attestation, and what runs on this machine is not what runs in the cloud.
func TestImageTargets(t *testing.T) {
	for target, want := range map[string][]string{
		"image": {"--platform linux/amd64 ", "--provenance=false", "--output type=docker "},
		"push":  {"--platform linux/amd64,linux/arm64 ", "--provenance=mode=max", "--output type=registry,rewrite-timestamp=true "},
	} {
		cmd := exec.Command("make", "--dry-run", "IMAGE=registry.example.com/forgewire:1", target)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, option := range append(want, "--tag registry.example.com/forgewire:1 ", "--build-arg SOURCE_DATE_EPOCH=") {
			if !strings.Contains(string(out), option) {
				t.Errorf("make %s has no %s: %s", target, option, out)
			}
		}
	}
}

// Nothing secret and no history reaches a build: Docker's own rule is that a line matches a path from the root.
func TestDockerignore(t *testing.T) {
	ignored := strings.Fields(read(t, ".dockerignore"))
	for _, name := range []string{".git", ".env", ".forgewire", "infra/deploy", "**/node_modules"} {
		found := false
		for _, line := range ignored {
			found = found || line == name
		}
		if !found {
			t.Errorf("%s would be sent to the builder", name)
		}
	}
}

// maxImage is how large an image may be, as registries keep it and platforms pull it: compressed.
const maxImage = 30_000_000

// The build's own command, in a folder with what the builder would get: twice the same static binary, which knows its
// version, and makes an image of under 30 MB.
func TestImageBuilds(t *testing.T) {
	if os.Getenv("E2E_LONG") != "1" {
		t.Skip("builds without a cache: set E2E_LONG=1")
	}
	var first []byte
	for _, name := range []string{"one", "another/place"} {
		dir := filepath.Join(t.TempDir(), name)
		out := filepath.Join(t.TempDir(), "out")
		source(t, dir)
		var command string
		for _, line := range instructions(t) {
			if strings.HasPrefix(line, "RUN ") && strings.Contains(line, "go build") {
				command = regexp.MustCompile(`--mount=\S+ +`).ReplaceAllString(strings.TrimPrefix(line, "RUN "), "")
			}
		}
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(command, "/out/", out+"/"))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOFLAGS=-buildvcs=false", "GOCACHE="+t.TempDir(),
			"TARGETOS=linux", "TARGETARCH=amd64", "VERSION=v1.2.3")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, b)
		}
		binary, err := os.ReadFile(filepath.Join(out, "forgewire"))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = binary
		}
		if !bytes.Equal(first, binary) {
			t.Error("two builds differ")
		}
		f, err := elf.NewFile(bytes.NewReader(binary))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Error("the binary is not static")
			}
		}
		var layer bytes.Buffer
		z := gzip.NewWriter(&layer)
		if _, err = z.Write(binary); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		if t.Logf("%d bytes, %d of them to pull", len(binary), layer.Len()); layer.Len() > maxImage {
			t.Errorf("%d bytes are to be pulled", layer.Len())
		}
		if b, err := exec.Command(filepath.Join(out, "forgewire"), "version").Output(); err != nil || string(b) != "forgewire v1.2.3\n" {
			t.Errorf("version %q, %v", b, err)
		}
	}
}

// source copies what .dockerignore lets through.
func source(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	exclude := []string{}
	for line := range strings.Lines(read(t, ".dockerignore")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, anywhere := strings.CutPrefix(line, "**/")
		if !anywhere {
			pattern = "./" + pattern
		}
		exclude = append(exclude, "--exclude="+pattern)
	}
	pack := exec.Command("tar", append(append([]string{"-C", root, "-c"}, exclude...), ".")...)
	unpack := exec.Command("tar", "-x", "-C", dir)
	pipe, err := pack.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	unpack.Stdin = pipe
	if err = pack.Start(); err != nil {
		t.Fatal(err)
	}
	if err = unpack.Run(); err != nil {
		t.Fatal(err)
	}
	if err = pack.Wait(); err != nil {
		t.Fatal(err)
	}
}
