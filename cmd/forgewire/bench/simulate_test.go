package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// scaleCost are what a message takes, as Logs, Fanout and Broadcast measure it. See docs/scaling.md.
type scaleCost struct {
	Flush   time.Duration // a commit's wait for the disk, whatever it carries
	Append  time.Duration // CPU of a message in Postgres
	Notify  time.Duration // the same of each replica that hears it
	Hear    time.Duration // CPU of a message in each replica that hears it, whoever it is for
	Deliver time.Duration // CPU of a message for each client that gets it
}

// scalePlan is a deployment to be simulated.
type scalePlan struct {
	Costs         scaleCost
	Logs          int
	LogCores      int // of each log's server
	Replicas      int
	ReplicaCores  int
	Rate          float64 // messages a second, on all channels together
	Audience      float64 // clients that get a message, on average, spread over the replicas
	Seconds       float64
	Seed          uint64
	BatchMessages int // of one flush
}

// scaleResult is what the plan comes to.
type scaleResult struct {
	Log     float64       // of the busiest log's cores, the part that is in use: from 1 on it cannot keep up
	Replica float64       // the same of a replica's
	P50     time.Duration // from publish to the last replica's last client; 0 where something cannot keep up
	P99     time.Duration
}

// simulate lets messages arrive at random times, each at a random log. A log is a server that commits what has arrived since
// its last commit began; then its cores write a notification for each replica. A replica hears all logs, one message after
// the other, and its cores hand each on to its share of the audience. All replicas hear the same; they differ in the order
// in which the server serves them, so it is the last served one whose client is waited for.
func simulate(p scalePlan) scaleResult {
	seconds := func(d time.Duration) float64 { return d.Seconds() }
	perLog := p.Rate / float64(p.Logs)
	logWork := seconds(p.Costs.Append) + float64(p.Replicas)*seconds(p.Costs.Notify)
	replicaWork := seconds(p.Costs.Hear) + p.Audience/float64(p.Replicas)*seconds(p.Costs.Deliver)
	r := scaleResult{Log: perLog * logWork / float64(p.LogCores), Replica: p.Rate * replicaWork / float64(p.ReplicaCores)}
	// One goroutine a log follows it, and appends are made one batch at a time, so one core each bounds these two.
	r.Log = max(r.Log, perLog*seconds(p.Costs.Append))
	r.Replica = max(r.Replica, perLog*seconds(p.Costs.Hear))
	if r.Log >= 1 || r.Replica >= 1 {
		return r
	}
	rng := rand.New(rand.NewPCG(p.Seed, 1)) // repeatable
	type arrival struct{ published, heard float64 }
	var all []arrival
	for range p.Logs {
		var commits, served float64 // when the log is free again, for appends and for notifications
		var waiting []float64
		for at := rng.ExpFloat64() / perLog; at < p.Seconds || len(waiting) > 0; {
			for at < p.Seconds && (len(waiting) == 0 || at <= commits) {
				commits = max(commits, at) // an idle log begins at once
				waiting = append(waiting, at)
				at += rng.ExpFloat64() / perLog
			}
			n := min(len(waiting), p.BatchMessages)
			commits += seconds(p.Costs.Flush) + float64(n)*seconds(p.Costs.Append)
			served = max(served, commits) + float64(n*p.Replicas)*seconds(p.Costs.Notify)/float64(p.LogCores)
			for _, published := range waiting[:n] {
				all = append(all, arrival{published, served})
			}
			waiting = waiting[n:]
		}
	}
	slices.SortFunc(all, func(a, b arrival) int { return int(math.Copysign(1, a.heard-b.heard)) })
	var free float64 // when the last served replica is
	took := make([]float64, len(all))
	for i, a := range all {
		free = max(free, a.heard) + replicaWork/float64(p.ReplicaCores)
		took[i] = free - a.published
	}
	slices.Sort(took)
	at := func(part float64) time.Duration {
		return time.Duration(took[int(part*float64(len(took)-1))] * float64(time.Second))
	}
	r.P50, r.P99 = at(0.5), at(0.99)
	return r
}
