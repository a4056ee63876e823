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
	"github.com/riverqueue/river"

	"forgewire/db"
)

// Timing and bounds of deliveries.
const (
	webhookTimeout   = 10 * time.Second   // for the receiver to answer
	webhookGivesUp   = 3 * 24 * time.Hour // after the event
	webhookMaxWait   = time.Hour          // between two attempts
	webhookWorkers   = 4                  // requests under way at once, of one replica
	deliveryQueue    = "webhooks"
	deliveryAttempts = 10_000 // never reached: time is what ends the attempts
)

// delivery sends what is in the queue to the receiver. It is the worker of its jobs.
type delivery struct {
	river.WorkerDefaults[webhookJob]
	logger *slog.Logger
	stats  *stats
	url    string
	secret []byte
	client *http.Client
	queue  *db.Queue
}

// webhookJob is one request.
type webhookJob struct {
	webhookBody
}

// Kind names the job to river.
func (webhookJob) Kind() string { return "webhook" }

func newDelivery(n *Node) (*delivery, error) {
	d := &delivery{logger: n.logger, stats: &n.stats, url: n.cfg.WebhookURL, secret: []byte(n.cfg.WebhookSecret),
		client: newHTTPClient(webhookWorkers), queue: n.queue}
	if err := db.AddWorker(d.queue, deliveryQueue, webhookWorkers, d); err != nil {
		return nil, fmt.Errorf("make the webhooks' queue: %w", err)
	}
	return d, nil
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
	if err := d.queue.Insert(ctx, tx, jobs); err != nil {
		return fmt.Errorf("queue the webhooks: %w", err)
	}
	return nil
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
