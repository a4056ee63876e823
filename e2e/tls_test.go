package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"forgewire/infra/devstack"
	"forgewire/infra/fakellm"
)

// authority signs certificates for servers on this machine.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, which clients trust
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: t.Name()}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key, file: place(t, "ca.pem", encode("CERTIFICATE", der))}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// server makes a certificate for 127.0.0.1 and its key, in files that only PostgreSQL's account may read.
func (a *authority) server() (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = place(a.t, "server.pem", encode("CERTIFICATE", der)), place(a.t, "server.key", encode("EC PRIVATE KEY", secret))
	if err = os.Chmod(key, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return cert, key
	}
	who, err := user.Lookup("postgres") // as devstack chooses
	if err != nil {
		if who, err = user.Lookup("nobody"); err != nil {
			a.t.Fatal(err)
		}
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	if err = os.Chown(key, uid, gid); err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// TLS to PostgreSQL, with its certificate verified: every connection of a replica has it, and a server that somebody
// else vouches for gets nothing.
func TestTLSToPostgres(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	cert, key := ca.server()
	server := ownServer(t, map[string]string{"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key})
	plain := newDatabase(t, server)
	verified := func(by *authority) string {
		u, err := url.Parse(plain)
		if err != nil {
			t.Fatal(err)
		}
		u.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {by.file}}.Encode()
		return u.String()
	}
	good := verified(ca)
	c := newCluster(t, 2, options{url: plain, urls: func(int) (string, string) { return good, good }})
	book := newLedger()
	subs := crowd(c, "room:1")
	sql := dial(t, good)
	if _, err := book.insert(t.Context(), sql, "room:1"); err != nil { // the drainers come too
		t.Fatal(err)
	}
	c.settle(book, subs...)
	bare := query[[]string](t, plain, `SELECT coalesce(array_agg(application_name), '{}') FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
		WHERE datname = current_database() AND application_name LIKE 'forgewire%' AND NOT ssl`)
	kinds := query[int](t, plain, `SELECT count(DISTINCT application_name) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
		WHERE datname = current_database() AND application_name LIKE 'forgewire%' AND ssl`)
	if len(bare) > 0 || kinds < 3 {
		t.Errorf("without TLS: %v; kinds of connections with it: %d", bare, kinds)
	}

	bad := verified(stranger)
	suspicious := newCluster(t, 1, options{url: plain, idle: true, urls: func(int) (string, string) { return bad, bad }})
	r := suspicious.replicas[0]
	r.start()
	until(t, 20*time.Second, "the complaint", func() string {
		if why := r.ready(); !strings.Contains(why, "503") {
			return why
		}
		if log := r.log.String(); !strings.Contains(log, "certificate") {
			return log
		}
		return ""
	})
}

// TLS to Valkey, with its certificate verified against the authorities that the system trusts (SSL_CERT_FILE): replicas
// share what they cache over it, and tell a server that somebody else vouches for nothing.
func TestTLSToValkey(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	cert, key := ca.server()
	port := freePort(t)
	dir, err := devstack.MkdirTemp("", "forgewire-e2e-valkey-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	server, err := devstack.StartValkey(t.Context(), filepath.Join(dir, "data"), map[string]string{
		"tls-port": strconv.Itoa(port), "tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": ca.file, "tls-auth-clients": "no"}, nil)
	if err != nil {
		missing(t, "no Valkey that can do TLS: "+err.Error())
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	keys := func() string { return valkeyAnswer(t, server.Port(), "DBSIZE") }
	trusting := func(by *authority) *llmCluster {
		return newLLM(t, nil, map[string]fakellm.Behaviour{"m": {Tokens: 5}},
			fmt.Sprintf("VALKEY_URL=rediss://127.0.0.1:%d", port), "SSL_CERT_FILE="+by.file)
	}
	suspicious := trusting(stranger)
	for i := range 10 {
		suspicious.mustAsk(i%2, "/chat/completions", asking("m", fmt.Sprint("suspicious ", i), nil))
	}
	for _, r := range suspicious.replicas {
		until(t, 20*time.Second, "the complaint", func() string {
			// Why (an unknown authority) is in it too, unless the machine is too busy for a handshake.
			if log := r.log.String(); !strings.Contains(log, "the cache does not answer") {
				return log
			}
			return ""
		})
	}
	if n := keys(); n != ":0" {
		t.Errorf("a server that nobody vouches for was told %s keys", n)
	}

	c := trusting(ca)
	n := 0
	until(t, time.Minute, "a hit on the other replica", func() string {
		n++
		question := fmt.Sprint("over TLS ", n)
		c.mustAsk(0, "/chat/completions", asking("m", question, nil))
		return missingHit(c.mustAsk(1, "/chat/completions", asking("m", question, nil)).header)
	})
	if n := keys(); n == ":0" {
		t.Error("the server that was hit has no keys")
	}
}

// valkeyAnswer is the first line that a Valkey answers.
func valkeyAnswer(t testing.TB, port int, command string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a read that fails says so
	fmt.Fprintf(conn, "%s\r\n", command)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}
