package devstack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// valkeyMemory bounds the cache; beyond it the least recently used keys go.
const valkeyMemory = "128mb"

// valkeyFolders are looked at after PATH.
var valkeyFolders = []string{"/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"}

// valkey is the program "valkey-server".
type valkey struct {
	settings map[string]string // laid over the defaults
}

// StartValkey starts one Valkey server on dir, made if absent, with these settings of
// its configuration file over the defaults. It is ErrNoValkey where none is installed.
// End it with Server.Stop.
func StartValkey(ctx context.Context, dir string, settings map[string]string, progressTo io.Writer) (*Server, error) {
	who := unprivileged()
	binary := findValkey(who)
	if binary == "" {
		return nil, ErrNoValkey
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = makePrivate(dir, who)
	}
	if err != nil {
		return nil, fmt.Errorf("start valkey: %w", err)
	}
	server := newServer(valkey{settings}, binary, dir, who, &progress{w: progressTo})
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	return server, nil
}

// findValkey returns the path of valkey-server, "" if there is none that who can run.
func findValkey(who *account) string {
	var candidates []string
	if path, err := exec.LookPath("valkey-server"); err == nil {
		candidates = append(candidates, path)
	}
	for _, folder := range valkeyFolders {
		candidates = append(candidates, filepath.Join(folder, "valkey-server"))
	}
	for _, path := range candidates {
		if executable(path) && who.reach(path) == nil {
			return path
		}
	}
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (valkey) name() string { return "valkey" }

func (valkey) url(port int) string { return "redis://" + address(port) }

// args keeps the cache over a stop. What was written in the minute before a
// crash is lost, which is what a cache is for.
func (v valkey) args(dir string, port int) []string {
	args := []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--protected-mode", "yes",
		"--dir", dir, "--daemonize", "no", "--save", "60 1", "--appendonly", "no",
		"--maxmemory", valkeyMemory, "--maxmemory-policy", "allkeys-lru",
	}
	for name, value := range v.settings {
		args = append(args, "--"+name, value) // the last of two equal ones counts
	}
	return args
}

// death cannot wait for a last snapshot: nobody would notice if that hangs.
func (valkey) death() syscall.Signal { return syscall.SIGKILL }

func (valkey) stopping() []stopStep {
	return []stopStep{{syscall.SIGTERM, 10 * time.Second}}
}

func (valkey) cause(log string) error {
	if strings.Contains(log, "Failed listening on port") || strings.Contains(log, "Address already in use") {
		return errPortTaken
	}
	return nil
}

// knock sends PING and asks for the process number, so that no other server
// which was quicker to take the port is taken for ours.
func (valkey) knock(ctx context.Context, _ string, port, pid int) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := conn.Write([]byte("PING\r\nINFO server\r\n")); err != nil {
		return err
	}
	reader := bufio.NewScanner(conn)
	if !reader.Scan() || reader.Text() != "+PONG" {
		return fmt.Errorf("%w: %s", errNotReady, reader.Text()) // "-LOADING …"
	}
	for reader.Scan() {
		if value, ok := strings.CutPrefix(reader.Text(), "process_id:"); ok {
			if value != strconv.Itoa(pid) {
				return fmt.Errorf("%w: process %s answers", errNotReady, value)
			}
			return nil
		}
	}
	return errNotReady
}
