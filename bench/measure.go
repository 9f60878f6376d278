//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Groups of measures, which --only selects.
const (
	groupThroughput  = "throughput"
	groupLatency     = "latency"
	groupConnections = "connections"
	groupMemory      = "memory"
	groupStart       = "start"
)

func allGroups() []string {
	return []string{groupThroughput, groupLatency, groupConnections, groupMemory, groupStart}
}

// value is what a side contributes to one line of the report.
type value struct {
	table, name, unit string
	value             float64
}

// Tables of the report, in its order.
const (
	tableThroughput  = "throughput"
	tableCPU         = "cpu of the proxies, by volume"
	tableCPUAll      = "cpu of proxies and applications, by volume"
	tableLatency     = "latency of a 64-byte request and response"
	tableRequests    = "requests of 1 KiB by 50 clients at once"
	tableBeside      = "latency of a 64-byte request and response beside 2 uploads"
	tableConnections = "connections one after the other in each worker"
	tableFirstByte   = "from connect to the first byte of the answer"
	tableConnCPU     = "cpu of the proxies, by connection"
	tableMemory      = "memory of one proxy, mean of the two"
	tableStart       = "cpu of one gateway, from its start until it is ready"
)

func allTables() []string {
	return []string{
		tableThroughput, tableCPU, tableCPUAll, tableLatency, tableRequests, tableBeside, tableConnections, tableFirstByte, tableConnCPU,
		tableMemory, tableStart,
	}
}

// measure is one thing that every side does in turn.
type measure struct {
	group, name string
	order       order
	evaluate    func(name string, o outcome, used costs) []value
}

func allMeasures() []measure {
	return []measure{
		{groupThroughput, "upload, 1 stream", order{Op: opUpload, Workers: 1}, evaluateTransfer},
		{groupThroughput, "upload, 8 streams", order{Op: opUpload, Workers: 8}, evaluateTransfer},
		{groupThroughput, "download, 1 stream", order{Op: opDownload, Workers: 1}, evaluateTransfer},
		{groupThroughput, "download, 8 streams", order{Op: opDownload, Workers: 8}, evaluateTransfer},
		{groupLatency, "ping-pong, 1 connection", order{Op: opPing}, evaluatePing},
		{groupLatency, "requests", order{Op: opPing, Workers: 50, Size: 1 << 10}, evaluateRequests},
		{groupLatency, "ping-pong beside uploads", order{Op: opBeside, Workers: 2}, evaluateBeside},
		{groupConnections, "1 worker", order{Op: opConnect, Workers: 1}, evaluateConnect},
		{groupConnections, "32 workers", order{Op: opConnect, Workers: 32}, evaluateConnect},
	}
}

func evaluateTransfer(name string, o outcome, used costs) []value {
	gigabytes := float64(o.Payload) / 1e9
	return withoutZero([]value{
		{tableThroughput, name, "Gb/s", gigabytes * 8 / o.Elapsed.Seconds()},
		{tableCPU, name, "s/GB", used.proxies.Seconds() / gigabytes},
		{tableCPUAll, name, "s/GB", used.all.Seconds() / gigabytes},
	})
}

func evaluatePing(_ string, o outcome, used costs) []value {
	return withoutZero([]value{
		{tableLatency, "median", "µs", microseconds(o.Median)},
		{tableLatency, "99th percentile", "µs", microseconds(o.P99)},
		{tableLatency, "cpu of the proxies", "µs", microseconds(used.proxies) / float64(o.Operations)},
	})
}

func evaluateBeside(_ string, o outcome, _ costs) []value {
	return []value{
		{tableBeside, "median", "µs", microseconds(o.Median)},
		{tableBeside, "99th percentile", "µs", microseconds(o.P99)},
		{tableBeside, "uploads", "Gb/s", float64(o.Payload) / 1e9 * 8 / o.Elapsed.Seconds()},
	}
}

func evaluateRequests(_ string, o outcome, used costs) []value {
	return withoutZero([]value{
		{tableRequests, "requests", "1/s", float64(o.Operations) / o.Elapsed.Seconds()},
		{tableRequests, "median", "µs", microseconds(o.Median)},
		{tableRequests, "99th percentile", "µs", microseconds(o.P99)},
		{tableRequests, "cpu of the proxies", "µs", microseconds(used.proxies) / float64(o.Operations)},
	})
}

func evaluateConnect(name string, o outcome, used costs) []value {
	return withoutZero([]value{
		{tableConnections, name, "1/s", float64(o.Connections) / o.Elapsed.Seconds()},
		{tableFirstByte, name + ", median", "µs", microseconds(o.Median)},
		{tableFirstByte, name + ", 99th percentile", "µs", microseconds(o.P99)},
		{tableConnCPU, name, "µs", microseconds(used.proxies) / float64(o.Connections)},
	})
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// withoutZero leaves out what a side does not have, such as the CPU time of no
// proxy.
func withoutZero(values []value) []value {
	return slices.DeleteFunc(values, func(v value) bool { return v.value == 0 })
}

// run measures a side once.
func (m measure) run(ctx context.Context, s *side, d time.Duration) ([]value, error) {
	before, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	start, err := s.costs()
	if err != nil {
		return nil, err
	}
	o := m.order
	o.Target, o.Duration = s.target, d
	result, err := s.client.ask(ctx, o)
	if err != nil {
		return nil, err
	}
	end, err := s.costs()
	if err != nil {
		return nil, err
	}
	after, err := s.settled(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.check(before, after, result); err != nil {
		return nil, fmt.Errorf("the measurement is void: %w", err)
	}
	return m.evaluate(m.name, result, costs{proxies: end.proxies - start.proxies, all: end.all - start.all}), nil
}
