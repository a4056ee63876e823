package handlers

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"forgewire/realtime"
)

// The metrics have Centrifugo's names where it has the same thing, with forgewire for centrifugo.
var (
	metricBuild         = describe("node_build", "The version that runs.", "version")
	metricClients       = describe("node_num_clients", "Connections.")
	metricClientsLimit  = describe("node_num_clients_limit", "Connections that this replica accepts.")
	metricUsers         = describe("node_num_users", "Different users that are connected.")
	metricSubscriptions = describe("node_num_subscriptions", "Subscriptions.")
	metricChannels      = describe("node_num_channels", "Channels with a subscriber.")
	metricPublished     = describe("node_messages_sent_count", "Messages that this replica published.")
	metricReceived      = describe("node_messages_received_count", "Messages that arrived through the listener.")
	metricAccepted      = describe("client_connections_accepted", "Connections that were accepted.")
	metricDisconnects   = describe("client_num_server_disconnects", "Disconnects that the server decided on.", "code")
	metricCommands      = describe("transport_messages_received", "Commands of clients.")
	metricSent          = describe("transport_messages_sent", "Publications given to clients.")
	metricLag           = describe("broker_pub_sub_lag_seconds", "From a flush of this replica to its notification's return.")
	metricListening     = describe("listener_connected", "1 if the listener is connected.")
	metricResting       = describe("listener_resting", "1 if the listener is not connected because nobody uses the replica.")
	metricAge           = describe("listener_last_notification_age_seconds", "Since the last notification; -1 if there was none.")
	metricWaiting       = describe("publisher_waiting", "Publishes that wait for a flush.")
	metricFlushMessages = describe("publisher_flush_messages", "Messages in one flush.")
	metricFlushSeconds  = describe("publisher_flush_duration_seconds", "Time that a flush took.")
	metricFlushFailed   = describe("publisher_flush_failed_count", "Flushes that failed.")
	metricShardEvents   = describe("hub_queue_max", "Notifications that wait in the shard that is furthest behind.")
	metricPresenceDirty = describe("presence_waiting", "Members that wait to be written.")
	metricHookFailed    = describe("proxy_errors", "Calls of hooks that were not answered as they must be.")
	metricHookRefused   = describe("proxy_refused_count", "Calls of hooks that were not made: too many were under way.")
	metricEvalsWaiting  = describe("evaluations_waiting", "Evaluations that wait to go on, of all replicas.")
	metricEvalsRunning  = describe("evaluations_running", "Evaluations that some replica works on.")
	metricEvalsOldest   = describe("evaluations_oldest_seconds", "Since the oldest evaluation that is not over was made; 0 if there is none.")
	metricWebhookSent   = describe("webhook_delivered_count", "Requests that the webhooks' receiver took.")
	metricWebhookFailed = describe("webhook_failed_count", "Attempts that the webhooks' receiver did not take, which are made again.")
	metricWebhookGaveUp = describe("webhook_discarded_count", "Requests that the webhooks' receiver never took.")
	metricWebhookLost   = describe("webhook_dropped_count", "Events that were lost while the database was away.")
)

// Of each of several logs; log is its place.
var (
	metricLogConnected = describe("log_connected", "1 if the log is being listened to.", "log")
	metricLogPublished = describe("log_published_count", "Messages that this replica published to the log.", "log")
	metricLogReceived  = describe("log_received_count", "Messages that arrived from the log.", "log")
	metricLogFailed    = describe("log_flush_failed_count", "Flushes to the log that failed.", "log")
	metricLogWaiting   = describe("log_publisher_waiting", "Publishes that wait for a flush to the log.", "log")
	metricLogForwarded = describe("log_forwarded_count", "Messages published from SQL that this replica forwarded to the log.", "log")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("forgewire_"+name, help, labels, nil)
}

// metrics is where a collector sends figures.
type metrics chan<- prometheus.Metric

func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m metrics) counter(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// nodeCollector asks a node for its figures when it is scraped: nothing is counted for Prometheus alone.
type nodeCollector struct {
	node *realtime.Node
}

// Metrics serves a replica's figures, and the process's, to Prometheus. Whoever mounts it decides who may see
// them. Monitor must be the same that Routes has.
func Metrics(cfg Config) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(nodeCollector{cfg.Node}, systemCollector{cfg.Monitor, cfg.Pools, cfg.Memory, cfg.Gate}, cacheCollector{cfg.Cache, cfg.LLM},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// Describe sends nothing: the collector is registered once and not checked.
func (nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the figures of now.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	s := c.node.Stats()
	m := metrics(out)
	for d, v := range map[*prometheus.Desc]float64{
		metricClients: float64(s.Connections.Total), metricClientsLimit: float64(s.Connections.Limit), metricUsers: float64(s.Connections.Users),
		metricSubscriptions: float64(s.Connections.Subscriptions), metricChannels: float64(s.Connections.Channels),
		metricAge: s.Listener.LastNotificationAge, metricWaiting: float64(s.Queues.PublisherWaiting),
		metricShardEvents: float64(s.Queues.ShardEvents), metricPresenceDirty: float64(s.Queues.PresenceDirty),
		metricListening: oneIf(s.Listener.Connected), metricResting: oneIf(s.Listener.Resting),
	} {
		m.gauge(d, v)
	}
	for d, v := range map[*prometheus.Desc]uint64{
		metricPublished: s.Messages.Published, metricReceived: s.Messages.Received, metricCommands: s.Messages.Commands, metricSent: s.Messages.Sent,
		metricAccepted: s.Connections.Accepted, metricFlushFailed: s.Flushes.Failed,
		metricHookFailed: s.Hooks.Failed, metricHookRefused: s.Hooks.Refused,
		metricWebhookSent: s.Webhooks.Delivered, metricWebhookFailed: s.Webhooks.Failed,
		metricWebhookGaveUp: s.Webhooks.Discarded, metricWebhookLost: s.Webhooks.Dropped,
	} {
		m.counter(d, float64(v))
	}
	for _, l := range s.Logs {
		place := strconv.Itoa(l.Place)
		m.gauge(metricLogConnected, oneIf(l.Connected), place)
		m.gauge(metricLogWaiting, float64(l.Waiting), place)
		for d, v := range map[*prometheus.Desc]uint64{metricLogPublished: l.Published, metricLogReceived: l.Received,
			metricLogFailed: l.Failed, metricLogForwarded: l.Forwarded} {
			m.counter(d, float64(v), place)
		}
	}
	// Who rests does not hear what others queue.
	if load, known := c.node.Queue().Load(); known && !s.Listener.Resting {
		m.gauge(metricEvalsWaiting, float64(load.Waiting))
		m.gauge(metricEvalsRunning, float64(load.Running))
		m.gauge(metricEvalsOldest, load.Oldest.Seconds())
	}
	m.gauge(metricBuild, 1, c.node.Info().Version)
	for code, n := range s.Connections.Disconnects {
		m.counter(metricDisconnects, float64(n), strconv.Itoa(int(code)))
	}
	for d, h := range map[*prometheus.Desc]realtime.Histogram{metricLag: s.Listener.Lag, metricFlushMessages: s.Flushes.Messages, metricFlushSeconds: s.Flushes.Seconds} {
		buckets := make(map[float64]uint64, len(h.Buckets))
		for _, b := range h.Buckets {
			buckets[b.Upper] = b.Count
		}
		out <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets)
	}
}
