package bench

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Machine is what a run was done on and with. What is not known is empty.
type Machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	Memory   int64  `json:"memory_bytes"`
	OS       string `json:"os"`
	Postgres string `json:"postgres"` // of the private server
	Valkey   string `json:"valkey"`
	Go       string `json:"go"`
	Version  string `json:"version"` // of Forgewire
	Commit   string `json:"commit"`
}

// DescribeMachine looks at this one. Version is the program's own.
func DescribeMachine(ctx context.Context, version string) Machine {
	return Machine{CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Memory: memory(), OS: operatingSystem(),
		Go: strings.TrimPrefix(runtime.Version(), "go"), Version: version, Commit: commit(ctx)}
}

// String is a line.
func (m Machine) String() string {
	parts := []string{fmt.Sprintf("%d × %s", m.Cores, cmp.Or(m.CPU, "unknown CPU"))}
	if m.Memory > 0 {
		parts = append(parts, fmt.Sprintf("%.0f GB", float64(m.Memory)/1e9))
	}
	parts = append(parts, m.OS)
	for _, p := range []struct{ name, version string }{{"PostgreSQL", m.Postgres}, {"Valkey", m.Valkey}, {"Go", m.Go}, {"Forgewire", m.Version}} {
		if p.version != "" {
			parts = append(parts, p.name+" "+p.version)
		}
	}
	if m.Commit != "" && !strings.HasPrefix(m.Commit, m.Version) {
		parts = append(parts, "commit "+m.Commit)
	}
	return strings.Join(parts, ", ")
}

// field returns the value of the first line of a file that begins with name.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "" // another system
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Trim(strings.TrimSpace(rest), `:="`+" \t")
		}
	}
	return ""
}

func memory() (bytes int64) {
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal:"), &bytes); err != nil {
		return 0
	}
	return bytes << 10
}

func operatingSystem() string {
	return cmp.Or(field("/etc/os-release", "PRETTY_NAME"), runtime.GOOS) + " " + runtime.GOARCH
}

// commit is what the working directory is at, if it is Forgewire's repository.
func commit(ctx context.Context) string {
	dir, err := repository()
	if err != nil || dir == "" {
		return ""
	}
	out, err := exec.CommandContext(ctx, "git", "-C", dir, "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "" // no git, or no repository
	}
	return strings.TrimSpace(string(out))
}

// repository is the folder of Forgewire's source in or above the working directory, or "".
func repository() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		if b, err := os.ReadFile(filepath.Join(at, "go.mod")); err == nil && strings.HasPrefix(string(b), "module forgewire\n") {
			return at, nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", nil
		}
		at = up
	}
}

// serverVersions asks a stack's servers. What one does not tell is left as it was.
func (m *Machine) serverVersions(ctx context.Context, s *stack) {
	if conn, err := pgx.Connect(ctx, s.database); err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		var text string
		if err = conn.QueryRow(ctx, "SHOW server_version").Scan(&text); err == nil {
			m.Postgres, _, _ = strings.Cut(text, " ")
		}
	}
	if s.valkey {
		if v := valkeyVersion(ctx, s.private.Valkey.URL()); v != "" {
			m.Valkey = v
		}
	}
}

var valkeyLine = regexp.MustCompile(`(?m)^(?:valkey|redis)_version:(\S+)`)

// valkeyVersion asks in the protocol's short form.
func valkeyVersion(ctx context.Context, address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 8<<10)
	if _, err = conn.Write([]byte("INFO server\r\n")); err != nil {
		return ""
	}
	n, err := conn.Read(buf)
	if err != nil {
		return ""
	}
	all := valkeyLine.FindAllSubmatch(buf[:n], -1)
	if len(all) == 0 {
		return ""
	}
	return string(all[len(all)-1][1]) // Valkey names Redis' first
}

var secretFlag = regexp.MustCompile(`^--(api-key|token|key|database-url)(=|$)`)

// Command is a command line without what is secret in it.
func Command(args []string) string {
	out := []string{"forgewire"}
	hide := false
	for _, a := range args {
		switch m := secretFlag.FindStringSubmatch(a); {
		case hide:
			a, hide = "…", false
		case m != nil && m[2] == "=":
			a = "--" + m[1] + "=…"
		case m != nil:
			hide = true
		default:
			a = withoutPassword(a)
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

var userInfo = regexp.MustCompile(`://[^/@\s]*@`)

func withoutPassword(s string) string { return userInfo.ReplaceAllString(s, "://") }
