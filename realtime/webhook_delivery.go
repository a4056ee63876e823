package realtime

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"forgewire/db"
)

// Timing and bounds of deliveries.
const (
	webhookTimeout   = 10 * time.Second   // for the receiver to answer
	webhookGivesUp   = 3 * 24 * time.Hour // after the event
	webhookMaxWait   = time.Hour          // between two attempts
	webhookWorkers   = 4                  // requests under way at once, of one replica
	webhookRescue    = time.Minute        // then an attempt of a replica that died is made again
	deliveryPoll     = time.Second        // while something waits to be delivered
	deliveryQueue    = "webhooks"
	deliveryAttempts = 10_000 // never reached: time is what ends the attempts
)

// delivery sends what is in the queue, river's, to the receiver. A river client polls, elects a leader and
// tidies up, so there is one only while something is queued: when all was delivered it stops, and a
// notification that comes with each insert starts it again, on every replica.
type delivery struct {
	river.WorkerDefaults[webhookJob]
	pool   *pgxpool.Pool
	logger *slog.Logger
	stats  *stats
	url    string
	secret []byte
	client *http.Client
	woken  chan struct{}         // capacity 1
	queue  *river.Client[pgx.Tx] // for inserts
}

// webhookJob is one request.
type webhookJob struct {
	webhookBody
}

// Kind names the job to river.
func (webhookJob) Kind() string { return "webhook" }

func newDelivery(n *Node) (*delivery, error) {
	d := &delivery{pool: n.cfg.Pool, logger: n.logger, stats: &n.stats, url: n.cfg.WebhookURL, secret: []byte(n.cfg.WebhookSecret),
		client: newHTTPClient(webhookWorkers), woken: make(chan struct{}, 1)}
	var err error
	d.queue, err = river.NewClient(riverpgxv5.New(d.pool), &river.Config{Schema: db.Schema, Logger: d.quiet()})
	if err != nil {
		return nil, fmt.Errorf("make the webhooks' queue: %w", err)
	}
	return d, nil
}

func (d *delivery) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// insert queues requests with these events inside tx.
func (d *delivery) insert(ctx context.Context, tx pgx.Tx, at int64, events []webhookEvent) error {
	var jobs []river.InsertManyParams
	for len(events) > 0 {
		n := min(len(events), maxEventsInRequest)
		jobs = append(jobs, river.InsertManyParams{Args: webhookJob{webhookBody{TimeMS: at, Events: events[:n]}},
			InsertOpts: &river.InsertOpts{Queue: deliveryQueue, MaxAttempts: deliveryAttempts}})
		events = events[n:]
	}
	if len(jobs) == 0 {
		return nil
	}
	if _, err := d.queue.InsertManyFastTx(ctx, tx, jobs); err != nil {
		return fmt.Errorf("queue the webhooks: %w", err)
	}
	return nil
}

// run delivers whenever something is queued, until ctx ends.
func (d *delivery) run(ctx context.Context) error {
	defer d.client.CloseIdleConnections()
	for {
		select {
		case <-d.woken:
		case <-ctx.Done():
			return nil
		}
		for {
			err := d.session(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				break
			}
			d.logger.Warn("the webhooks' queue failed, trying again", "error", err)
			if !pause(ctx, flushRetry) {
				return nil
			}
		}
	}
}

// session delivers until nothing is queued.
func (d *delivery) session(ctx context.Context) error {
	if waiting, err := d.waiting(ctx); err != nil || !waiting {
		return err
	}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, d); err != nil {
		return fmt.Errorf("add the worker: %w", err)
	}
	c, err := river.NewClient(riverpgxv5.New(d.pool), &river.Config{
		Schema: db.Schema, Logger: d.quiet(), Workers: workers,
		Queues:                      map[string]river.QueueConfig{deliveryQueue: {MaxWorkers: webhookWorkers}},
		PollOnly:                    true, // its LISTEN would be swallowed by a pooler in transaction mode
		FetchPollInterval:           deliveryPoll,
		JobTimeout:                  2 * webhookTimeout,
		RescueStuckJobsAfter:        webhookRescue,
		CompletedJobRetentionPeriod: time.Minute,
		SoftStopTimeout:             time.Second,
	})
	if err != nil {
		return fmt.Errorf("make the queue's client: %w", err)
	}
	if err = c.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start the queue's client: %w", err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*webhookTimeout)
		defer cancel()
		if err := c.Stop(stop); err != nil {
			d.logger.Warn("the webhooks' queue did not stop in time", "error", err)
		}
	}()
	for pause(ctx, 2*deliveryPoll) {
		select { // what was inserted before this look needs no other
		case <-d.woken:
		default:
		}
		if waiting, err := d.waiting(ctx); err != nil || !waiting {
			return err
		}
	}
	return ctx.Err()
}

// waiting says whether something is queued, now or for a later attempt.
func (d *delivery) waiting(ctx context.Context) (waiting bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	err = d.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM forgewire.river_job
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND queue = $1)`, deliveryQueue).Scan(&waiting)
	if err != nil {
		return false, fmt.Errorf("look into the webhooks' queue: %w", err)
	}
	return waiting, nil
}

// Work makes one attempt.
func (d *delivery) Work(ctx context.Context, job *river.Job[webhookJob]) error {
	err := d.post(ctx, job.ID, job.Args.webhookBody)
	switch {
	case err == nil:
		d.stats.webhooks.delivered.Add(1)
	case time.Since(job.CreatedAt) > webhookGivesUp:
		d.stats.webhooks.discarded.Add(1)
		d.logger.Error("a webhook was discarded: its receiver has not taken it for too long", "delivery", job.ID, "events", len(job.Args.Events), "error", err)
		return river.JobCancel(err)
	default:
		d.stats.webhooks.failed.Add(1)
	}
	return err
}

// NextRetry doubles the wait with each attempt, up to an hour.
func (d *delivery) NextRetry(job *river.Job[webhookJob]) time.Time {
	wait := webhookMaxWait
	if job.Attempt < 12 {
		wait = min(wait, time.Second<<job.Attempt)
	}
	return time.Now().Add(wait/2 + rand.N(wait/2))
}

// post sends one request. Any answer from 200 to 299 is a receipt.
func (d *delivery) post(ctx context.Context, id int64, body webhookBody) error {
	text, err := body.encode()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(text))
	if err != nil {
		return errors.New("make the request: the URL is not valid") // the error would quote it
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Forgewire-Delivery", strconv.FormatInt(id, 10))
	req.Header.Set("Forgewire-Signature", signatureOf(d.secret, time.Now(), text))
	resp, err := d.client.Do(req)
	if err != nil {
		return fmt.Errorf("send the webhook: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the webhook's receiver answered with status %d", resp.StatusCode)
	}
	return nil
}

// signatureOf returns the signature's header: the time, and the HMAC-SHA256 of the time, a dot and the body.
func signatureOf(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// quiet is a logger for river, which tells of each start and stop.
func (d *delivery) quiet() *slog.Logger { return slog.New(warnings{d.logger.Handler()}) }

// warnings lets pass what is a warning or worse.
type warnings struct{ slog.Handler }

// Enabled is slog's.
func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

// WithAttrs is slog's.
func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }

// WithGroup is slog's.
func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }
