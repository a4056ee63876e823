package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	superuser    = "postgres"
	databaseName = "forgewire"
	duplicate    = "42P04" // SQLSTATE: the database exists
)

// defaults suit a small machine. fsync stays on: benchmarks measure with it.
var defaults = map[string]string{
	"max_connections":   "200",
	"shared_buffers":    "64MB",
	"jit":               "off", // costs more than it gains on short queries
	"timezone":          "UTC",
	"log_timezone":      "UTC",
	"lc_messages":       "C", // we read the log
	"log_line_prefix":   "%m [%p] ",
	"log_destination":   "stderr",
	"logging_collector": "off",
	"ssl":               "off",
}

// reserved settings belong to Server: it has to find what it has started.
var reserved = []string{"port", "listen_addresses", "unix_socket_directories", "data_directory", "external_pid_file"}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)

// postgres is the program "postgres" with its settings.
type postgres struct {
	settings map[string]string
}

func newPostgres(settings map[string]string) (*postgres, error) {
	merged := maps.Clone(defaults)
	for name, value := range settings {
		name = strings.ToLower(name)
		if !settingName.MatchString(name) || slices.Contains(reserved, name) {
			return nil, fmt.Errorf("PostgreSQL setting %q cannot be set here", name)
		}
		merged[name] = value
	}
	return &postgres{settings: merged}, nil
}

// StartPostgres starts one PostgreSQL server on dir, which is a data folder (a
// restored copy, a standby) or new and empty. It returns once the server accepts
// connections; a standby accepts read-only ones. End it with Server.Stop.
func StartPostgres(ctx context.Context, dir string, settings map[string]string, progressTo io.Writer) (*Server, error) {
	server, err := preparePostgres(ctx, dir, settings, &progress{w: progressTo}, systemFinder())
	if err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	return server, nil
}

// preparePostgres makes the data folder if there is none and returns its server, not started.
func preparePostgres(ctx context.Context, dir string, settings map[string]string, out *progress, find finder) (*Server, error) {
	if dir == "" {
		return nil, errors.New("no data folder given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	program, err := newPostgres(settings)
	if err != nil {
		return nil, err
	}
	major, err := clusterVersion(dir)
	if err != nil {
		return nil, err
	}
	who := accountFor(dir)
	bindir, err := find.locate(ctx, major, who, out)
	if err != nil {
		return nil, err
	}
	if major == 0 {
		err = createCluster(ctx, bindir, dir, who, out)
	} else {
		err = makePrivate(dir, who)
	}
	if err != nil {
		return nil, err
	}
	return newServer(program, filepath.Join(bindir, "postgres"), dir, who, out), nil
}

func (*postgres) name() string { return "postgres" }

func (*postgres) url(port int) string { return postgresURL(port, databaseName) }

func postgresURL(port int, database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", superuser, address(port), database)
}

// args gives every setting on the command line, where it also prevails over the
// configuration that a copied data folder brings along.
func (p *postgres) args(dir string, port int) []string {
	args := []string{
		"-D", dir,
		"-c", "port=" + strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=" + socketFolder(dir),
	}
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		args = append(args, "-c", name+"="+p.settings[name])
	}
	return args
}

// death is the immediate shutdown: it waits for no client, no standby, no checkpoint.
func (*postgres) death() syscall.Signal { return signalImmediate }

func (*postgres) stopping() []stopStep {
	return []stopStep{
		{syscall.SIGINT, 30 * time.Second},
		{signalImmediate, 10 * time.Second},
	}
}

func (*postgres) cause(log string) error {
	switch {
	case strings.Contains(log, `lock file "postmaster.pid" already exists`),
		strings.Contains(log, "is still in use"): // shared memory, by orphaned backends
		return ErrInUse
	case strings.Contains(log, "could not create any TCP/IP sockets"):
		return errPortTaken
	}
	return nil
}

var errNotReady = errors.New("not ready yet")

// knock connects and makes our database. The lock file says that it is our
// server which answers and not another one that was quicker to take the port.
func (*postgres) knock(ctx context.Context, dir string, port, pid int) error {
	if file := readPIDFile(dir); file.pid != pid || file.status != "ready" {
		return errNotReady
	}
	conn, err := pgx.Connect(ctx, postgresURL(port, "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return createDatabase(ctx, conn)
}

// createDatabase makes our database where there is none. A standby has what its primary has.
func createDatabase(ctx context.Context, conn *pgx.Conn) error {
	var standby, exists bool
	err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery(),
		EXISTS (SELECT FROM pg_database WHERE datname = $1)`, databaseName).Scan(&standby, &exists)
	if err != nil {
		return fmt.Errorf("look for database: %w", err)
	}
	if standby || exists {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{databaseName}.Sanitize())
	if failure, ok := errors.AsType[*pgconn.PgError](err); ok && failure.Code == duplicate {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

// pidFile is what postmaster.pid says.
type pidFile struct {
	pid    int
	status string // "starting", "ready", "stopping", "standby"
}

// readPIDFile returns the zero value when there is none or it is being written.
func readPIDFile(dir string) pidFile {
	const statusRow = 7
	text, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return pidFile{}
	}
	rows := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(rows[0]))
	if err != nil {
		return pidFile{}
	}
	if len(rows) <= statusRow {
		return pidFile{pid: pid}
	}
	return pidFile{pid: pid, status: strings.TrimSpace(rows[statusRow])}
}
