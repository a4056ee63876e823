package devstack

import "errors"

var (
	// ErrInUse means that another process uses the data folder.
	ErrInUse = errors.New("data folder is in use by another process")
	// ErrRunning means that a server was started which runs already.
	ErrRunning = errors.New("server is already running")
	// ErrNotRunning means that the operation needs a running server.
	ErrNotRunning = errors.New("server is not running")
	// ErrNoPostgres means that no usable PostgreSQL was found, nor could one be downloaded.
	ErrNoPostgres = errors.New("no usable PostgreSQL")
	// ErrNoValkey means that no valkey-server is installed that we can run.
	ErrNoValkey = errors.New("no valkey-server installed")
	// ErrChecksum means that a downloaded archive is not the one that this version was built for.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrArchive means that an archive holds something that must not be unpacked.
	ErrArchive = errors.New("unsafe archive")

	// errPortTaken is the reason for which a server is tried again on another port.
	errPortTaken = errors.New("port is taken")
)
