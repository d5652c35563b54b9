//go:build linux

package main

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSample(t *testing.T) {
	for _, test := range []struct {
		why         string
		values      sample
		median, p99 float64
	}{
		{"one value is all there is", sample{7}, 7, 7},
		{"the middle of an odd number, in whatever order they came", sample{9, 1, 5}, 5, 9},
		{"between the two in the middle of an even number", sample{4, 1, 3, 2}, 2.5, 4},
		{"one of a hundred is above the 99th percentile", append(make(sample, 99), 1000), 0, 0},
		{"two of a hundred are not", append(make(sample, 98), 1000, 2000), 0, 1000},
	} {
		t.Run(test.why, func(t *testing.T) {
			before := append(sample{}, test.values...)
			if got := test.values.median(); got != test.median {
				t.Errorf("median %v, want %v", got, test.median)
			}
			if got := test.values.quantile(0.99); got != test.p99 {
				t.Errorf("p99 %v, want %v", got, test.p99)
			}
			if diff := cmp.Diff(before, test.values); diff != "" {
				t.Errorf("the rounds are in another order now:\n%s", diff)
			}
		})
	}
}

func TestGoals(t *testing.T) {
	for _, test := range []struct {
		why                  string
		goal                 goal
		bridge, stock, limit sample
		missed               string // empty: met
	}{
		{"at most, and just that", goal{bound: 15}, sample{14, 15, 16}, nil, nil, ""},
		{"above the most", goal{bound: 15}, sample{14, 15.5, 16}, nil, nil, "15.5 (14.0 to 16.0) µs, and the goal is ≤ 15 µs"},
		{"the ratio is that of each round: no slow round of the machine counts against the bridge", goal{against: ofStock, bound: 0.25}, sample{20, 200, 21}, sample{100, 1000, 100}, nil, ""},
		{"more than a part of the stock informer's", goal{against: ofStock, bound: 0.25}, sample{30, 30, 30}, sample{100, 100, 100}, nil, "0.30 (0.30 to 0.30), and the goal is ≤ 0.25 × stock"},
		{"less than a part of the limit", goal{against: ofLimit, atLeast: true, bound: 0.9}, sample{80, 80, 80}, nil, sample{100, 100, 100}, "0.80 (0.80 to 0.80), and the goal is ≥ 0.9 × raw"},
		{"as fast as the limit", goal{against: ofLimit, atLeast: true, bound: 0.9}, sample{100, 99, 101}, nil, sample{100, 100, 100}, ""},
		{"what was not measured is not met", goal{against: ofLimit, bound: 1}, sample{1}, nil, nil, ", and the goal is ≤ 1 × raw"},
		{"a goal for another size says nothing here", goal{at: 9, bound: 1}, sample{5}, nil, nil, ""},
	} {
		t.Run(test.why, func(t *testing.T) {
			f := &figure{name: "cost", unit: "µs", digits: 1, limit: "raw", goals: []goal{test.goal}}
			s := &sheet{}
			for of, values := range map[column]sample{ofBridge: test.bridge, ofStock: test.stock, ofLimit: test.limit} {
				for _, v := range values {
					s.add(f, 3, of, v)
				}
			}
			got := strings.Join(s.missed(), "\n")
			want := ""
			if test.missed != "" {
				want = "cost: " + test.missed
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNumber(t *testing.T) {
	for _, test := range []struct {
		value  float64
		digits int
		want   string
	}{
		{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.89, 1, "1,234,567.9"}, {-1234, 0, "-1,234"}, {-0.25, 2, "-0.25"},
		{math.Inf(1), 2, "–"},
		{math.NaN(), 2, "–"},
	} {
		if got := number(test.value, test.digits); got != test.want {
			t.Errorf("number(%v, %d) = %q, want %q", test.value, test.digits, got, test.want)
		}
	}
}
