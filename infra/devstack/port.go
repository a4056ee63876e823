package devstack

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are taken from below the ranges that Linux (32768–60999) and macOS
// (49152–65535) give to outgoing connections, so that none of those can sit on a
// server's port while it is stopped and to be started again.
const (
	firstPort = 20000
	lastPort  = 32767
	portTries = 100
)

var errNoPort = errors.New("no free port on 127.0.0.1")

// freePort returns a loopback port that nobody listens on at this moment.
func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listener, err := config.Listen(ctx, "tcp", address(port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, err
		}
		return port, nil
	}
	return 0, errNoPort
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
