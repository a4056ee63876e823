package handlers

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"forgewire/db"
	"forgewire/handlers/access"
	"forgewire/infra/memory"
	"forgewire/infra/monitor"
)

var (
	metricRequests  = describe("http_requests_total", "Requests that ended.", "method", "route", "status")
	metricDurations = describe("http_request_duration_seconds", "What requests took; of streams, until they began.", "method", "route")

	metricPoolBase     = describe("db_pool_base_connections", "Connections that the pool keeps.", "pool")
	metricPoolCeiling  = describe("db_pool_max_connections", "Connections that the pool may have.", "pool")
	metricPoolInUse    = describe("db_pool_in_use_connections", "Connections in use.", "pool")
	metricPoolIdle     = describe("db_pool_idle_connections", "Idle connections.", "pool")
	metricPoolWaiting  = describe("db_pool_waiting", "Callers that wait for a connection.", "pool")
	metricPoolAcquired = describe("db_pool_acquired_total", "Connections that were given out.", "pool")
	metricPoolWaited   = describe("db_pool_waited_total", "Acquires that found no connection free.", "pool")
	metricPoolWait     = describe("db_pool_wait_seconds_total", "Time that was waited for connections.", "pool")
	metricPoolRefused  = describe("db_pool_refused_total", "Callers that got no connection.", "pool", "why")
	metricPoolOpened   = describe("db_pool_opened_total", "Connections that were opened.", "pool")
	metricPoolEnded    = describe("db_pool_ended_total", "Connections that were closed or broke.", "pool")

	metricRunsWritten = describe("runs_written_total", "Runs that were written to the database.")
	metricRunsDropped = describe("runs_dropped_total", "Runs that were not: too many waited, or the database was away when the replica stopped.")
	metricRunsWaiting = describe("runs_waiting", "Runs that wait to be written.")

	metricMemoryLimit    = describe("memory_limit_bytes", "Memory that the replica may use.")
	metricMemoryUsed     = describe("memory_used_bytes", "Memory in use, of the container if it has a limit.")
	metricMemoryReserved = describe("memory_reserved_bytes", "Memory that large requests hold.")
	metricMemoryShedding = describe("memory_shedding", "1 while new connections and exports are refused.")
	metricMemoryRefused  = describe("memory_refused_total", "Requests and connections that were refused for want of memory.")
)

// systemCollector has the figures of the process: requests, pools and memory.
type systemCollector struct {
	monitor *monitor.Monitor
	pools   map[string]*pgxpool.Pool
	memory  *memory.Governor // nil for none
	gate    *access.Gate
}

// Describe sends nothing: the collector is registered once and not checked.
func (systemCollector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the figures of now.
func (c systemCollector) Collect(out chan<- prometheus.Metric) {
	m := metrics(out)
	for _, b := range c.monitor.Buckets() {
		out <- prometheus.MustNewConstHistogram(metricDurations, b.Count, b.Seconds, b.UpTo, b.Method, b.Route)
		for class, n := range b.Statuses {
			m.counter(metricRequests, float64(n), b.Method, b.Route, class)
		}
	}
	for name, pool := range c.pools {
		s := db.PoolStats(pool)
		for d, v := range map[*prometheus.Desc]int64{metricPoolBase: s.Base, metricPoolCeiling: s.Ceiling, metricPoolInUse: s.InUse,
			metricPoolIdle: s.Idle, metricPoolWaiting: s.Waiting} {
			m.gauge(d, float64(v), name)
		}
		for d, v := range map[*prometheus.Desc]float64{metricPoolAcquired: float64(s.Acquired), metricPoolWaited: float64(s.Waited),
			metricPoolWait: s.WaitSeconds, metricPoolOpened: float64(s.Opened), metricPoolEnded: float64(s.Ended)} {
			m.counter(d, v, name)
		}
		m.counter(metricPoolRefused, float64(s.TimedOut), name, "timeout")
		m.counter(metricPoolRefused, float64(s.Refused), name, "queue")
	}
	runs := c.gate.Stats()
	m.counter(metricRunsWritten, float64(runs.Written))
	m.counter(metricRunsDropped, float64(runs.Dropped))
	m.gauge(metricRunsWaiting, float64(runs.Waiting))
	if c.memory == nil {
		return
	}
	s := c.memory.Stats()
	for d, v := range map[*prometheus.Desc]float64{metricMemoryLimit: float64(s.Limit), metricMemoryUsed: float64(s.Used),
		metricMemoryReserved: float64(s.Reserved), metricMemoryShedding: oneIf(s.Level == memory.Shed.String())} {
		m.gauge(d, v)
	}
	m.counter(metricMemoryRefused, float64(s.Refused))
}
