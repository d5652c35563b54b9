package status

import (
	"regexp"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/rbac"
)

// blocked says what to do about a sink that does not take events, by what is in
// the reason; the first that fits. docs/operations.md has the same table.
var blocked = []struct{ says, todo string }{
	{"etcd was restored from a backup", "If that was meant, have the present state told again: bridge resync --config FILE --route %r"},
	{"no server can be reached", "Look after NATS, the URL in the configuration, and the network between. Nothing is dropped meanwhile."},
	{"the server refuses", "Mend the file with the credentials that it names. It is read again at the next attempt."},
	{"does not permit the bridge", "Give the NATS user the right. bridge permissions --config FILE prints all that it needs."},
	{"no JetStream answers", "Enable JetStream for the account, or look after the servers that have it."},
	{"jetstream.create is false", "Create the stream, or set jetstream.create to true."},
	{"no two streams can share a subject", "Use the stream that has the subjects, or another subject for this sink."},
	{"does not fit", "Change the field of the stream that it names, or use another stream."},
	{"is too large", "Raise the limit that it names: it leaves no room even for an object's name and uid."},
	{"does not take event", "The stream is full and takes nothing new: make room in it, or raise its limit."},
	{"insufficient resources", "JetStream is at its limit for the account: raise it, or give streams a maxBytes."},
	{"the embedded server does not start", "Another bridge may have the directory, or another process the address."},
	{"is refused", "The receiver will not take that event: mend the receiver, or leave the event out by the route."},
	{"says 5", "Look after the receiver. Nothing is dropped meanwhile."},
	{"did not answer within", "Look after the receiver. Nothing is dropped meanwhile."},
	{"wrong last sequence", "Nothing: another bridge has written, or a replica is busy. The next attempt tells which."},
}

// advice is what to do about the state that a flow is in; empty where there is
// nothing to do.
func advice(f *Flow) string {
	switch f.State {
	case flow.Blocked:
		for _, row := range blocked {
			if strings.Contains(f.Reason, row.says) {
				return strings.ReplaceAll(row.todo, "%r", f.Route)
			}
		}
		return "Look after the sink. It is tried again, and nothing is dropped meanwhile."
	case flow.Forbidden:
		return "Give the bridge the right, for example with this and kubectl apply -f -. It is noticed within 15 s, without a restart. bridge rbac --config FILE prints all the rights that a configuration needs."
	case flow.Failed:
		return "Mend what the reason names, in the cluster or in the route. It is tried again."
	case flow.Waiting:
		return "Nothing, if the CRD is to come later. Else look for a typo in the route's crds."
	}
	return ""
}

// user is whom the API server says it refused.
var user = regexp.MustCompile(`User "([^"]+)" cannot`)

// serviceAccount is the user of one.
var serviceAccount = regexp.MustCompile(`^system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)$`)

// grant is what gives the right to whom the reason says lacks it, as YAML; to
// the service account of deploy/ where it says nobody. Whatever the reason has
// in it, a value in the YAML stays one.
func grant(missing *flow.Right, reason string) string {
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "crbridge-system", Name: "crbridge"}
	if found := user.FindStringSubmatch(reason); found != nil {
		subject = rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: found[1]}
		if account := serviceAccount.FindStringSubmatch(found[1]); account != nil {
			subject = rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: account[1], Name: account[2]}
		}
	}
	text, err := rbac.YAML(rbac.Grant(missing.Group, missing.Resource, missing.Namespace, subject)...)
	if err != nil {
		return "" // it is of types that can be written
	}
	return text
}
