package flow

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/events/changes"
	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/events/when"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// RuleOptions say which of a CRD's objects and changes a route delivers, and
// what of them. The zero value delivers nothing, as it has no Events.
type RuleOptions struct {
	Namespaces    []string // none: all
	LabelSelector string
	FieldSelector string
	Events        []events.Type
	When          string // CEL; empty: always
	SpecOnly      bool
	Ignore        []string // field paths
	Content       string   // object, metadata or change; empty: object
	Drop          []string // field paths
	Keep          []string // field paths
	Redact        []string // field paths
}

// Rules are RuleOptions, compiled. They are immutable, and shared by all the
// flows of a route.
type Rules struct {
	options RuleOptions
	events  events.Set
	when    *when.Program   // nil: every event
	changes *changes.Filter // nil: every update
	payload *events.Payload // nil: the object
	id      string          // see selection
}

// NewRules compiles them. Its error names the option that is wrong.
func NewRules(o RuleOptions) (*Rules, error) {
	r := &Rules{options: o, events: events.NewSet(o.Events...)}
	var err error
	if o.When != "" {
		if r.when, err = when.Compile(o.When); err != nil {
			return nil, fmt.Errorf("when: %w", err)
		}
	}
	ignore := make([]fieldpath.Path, len(o.Ignore))
	for i, text := range o.Ignore {
		if ignore[i], err = fieldpath.Parse(text); err != nil {
			return nil, fmt.Errorf("changes.ignore[%d]: %w", i, err)
		}
	}
	// What is redacted must not be guessed from what stands for it.
	r.changes = changes.New(o.SpecOnly, ignore, len(o.Redact) > 0)
	r.payload, err = events.NewPayload(events.PayloadOptions{
		Content: events.Content(o.Content), Drop: o.Drop, Keep: o.Keep, Redact: o.Redact,
	})
	if err != nil {
		return nil, fmt.Errorf("payload.%w", err)
	}
	if r.id, err = o.selection(); err != nil {
		return nil, err
	}
	return r, nil
}

// Everything are the rules that deliver every change of every object.
func Everything() *Rules {
	r, err := NewRules(RuleOptions{Events: events.Types()})
	if err != nil {
		panic(err) // it has nothing that could be wrong
	}
	return r
}

// Are tells whether the rules are made of these options. Rules that are should
// be kept: a flow goes on undisturbed as long as it has the same ones.
func (r *Rules) Are(o RuleOptions) bool {
	a, b := r.options, o
	return slices.Equal(a.Namespaces, b.Namespaces) && a.LabelSelector == b.LabelSelector && a.FieldSelector == b.FieldSelector &&
		slices.Equal(a.Events, b.Events) && a.When == b.When && a.SpecOnly == b.SpecOnly && slices.Equal(a.Ignore, b.Ignore) &&
		a.Content == b.Content && slices.Equal(a.Drop, b.Drop) && slices.Equal(a.Keep, b.Keep) && slices.Equal(a.Redact, b.Redact)
}

// NamesNamespaces tells whether only objects of some namespaces are delivered,
// and so none that is cluster-scoped.
func (r *Rules) NamesNamespaces() bool { return len(r.options.Namespaces) > 0 }

// selection stands, in the journal, for which objects and changes are
// delivered. Where it is another than it was, a list is compared with the
// ledger: there may be objects to be told of that no watch brings. What of an
// object is delivered is no part of it: that holds from the next event on.
func (o RuleOptions) selection() (string, error) {
	namespaces := slices.Sorted(slices.Values(o.Namespaces))
	ignore := slices.Sorted(slices.Values(o.Ignore))
	content, err := json.Marshal([]any{namespaces, o.LabelSelector, o.FieldSelector, events.NewSet(o.Events...).String(), o.When, o.SpecOnly, ignore})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16]), nil
}

func (r *Rules) selection() string { return r.id }

// namespaces are those to watch, one watch each.
func (r *Rules) namespaces() []string {
	if len(r.options.Namespaces) == 0 {
		return []string{allNamespaces}
	}
	return r.options.Namespaces
}

// selected is what the watch of a namespace follows.
func (r *Rules) selected(namespace string) sources.Selection {
	return sources.Selection{Namespace: namespace, Labels: r.options.LabelSelector, Fields: r.options.FieldSelector}
}

// selective tells whether an object can leave what a watch follows and exist.
func (r *Rules) selective() bool {
	return r.options.LabelSelector != "" || r.options.FieldSelector != ""
}

// needsPast tells whether it matters what an object was like before.
func (r *Rules) needsPast() bool {
	return r.options.Content == string(events.ContentChange) || r.when != nil && r.when.NeedsOld()
}

// digest stands for what counts as a change of the object; zero where every
// update is one.
func (r *Rules) digest(o *object.Object) changes.Digest {
	if r.changes == nil {
		return changes.Digest{}
	}
	return r.changes.Digest(o.JSON)
}

// learns tells whether a version that is known, and of which no digest is, may
// be taken for the one that later ones are compared with. It may be one that
// `when` kept back, and those are compared with the one before.
func (r *Rules) learns() bool { return r.changes != nil && r.when == nil }

// digestsStay tells whether digests may leave the process.
func (r *Rules) digestsStay() bool { return r.changes != nil && r.changes.Durable() }
