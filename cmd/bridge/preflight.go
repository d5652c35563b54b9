package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/metadata"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/lifecycle"
	"github.com/crbridge/crbridge/pkg/sources"
)

// verdict is what a check says.
type verdict string

const (
	fine    verdict = "ok"
	warning verdict = "warning"
	wrong   verdict = "WRONG"
)

// row is one line of the table that `validate --cluster` prints.
type row struct {
	verdict  verdict
	of, what string
	result   string
}

// checksAtOnce bounds how many questions are asked at once.
const checksAtOnce = 8

// preflight asks the cluster and the sinks whether a bridge with the
// configuration could work, as whoever the kubeconfig names. It changes nothing
// anywhere.
func preflight(ctx context.Context, c *config.Config, kubeconfig string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var cluster, sinks []row
	var asking sync.WaitGroup
	asking.Go(func() { cluster = checkCluster(ctx, c, kubeconfig) })
	asking.Go(func() { sinks = checkSinks(ctx, c) })
	asking.Wait()
	rows := slices.Concat(cluster, sinks)
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "RESULT\tOF\tWHAT\tHOW IT IS")
	bad := 0
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.verdict, r.of, r.what, r.result)
		if r.verdict == wrong {
			bad++
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks found something wrong", bad, len(rows))
	}
	return nil
}

func checkSinks(ctx context.Context, c *config.Config) (rows []row) {
	names := slices.Sorted(maps.Keys(c.Sinks))
	found := make([][]row, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { found[i] = checkSink(ctx, c, name) })
	}
	asking.Wait()
	return slices.Concat(found...)
}

func checkSink(ctx context.Context, c *config.Config, name string) (rows []row) {
	of := "sink " + name
	_, settings := c.Sinks[name].Kind()
	findings, err := settings.Check(ctx, visiting(c, name))
	if err != nil {
		return []row{{wrong, of, "options", err.Error()}}
	}
	for _, f := range findings {
		v := fine
		switch {
		case f.Bad:
			v = wrong
		case f.Warn:
			v = warning
		}
		rows = append(rows, row{v, of, f.What, f.Result})
	}
	return rows
}

// clusterChecks asks one cluster.
type clusterChecks struct {
	config *config.Config
	crds   map[string]*lifecycle.CRD
	// namespaces are those that there are; nil where that may not be asked.
	namespaces []string
	may        func(ctx context.Context, a authorizationv1.ResourceAttributes) (bool, error)
}

func checkCluster(ctx context.Context, c *config.Config, kubeconfig string) []row {
	const of = "cluster"
	reach, err := connect(kubeconfig)
	if err != nil {
		return []row{{wrong, of, "API server", err.Error()}}
	}
	crds, err := listCRDs(ctx, reach)
	if err != nil {
		return []row{{wrong, of, "API server", fmt.Sprintf("%s does not say which CRDs there are: %v", reach.Config.Host, err)}}
	}
	client, err := authorizationclient.NewForConfigAndClient(reach.Config, reach.HTTP)
	if err != nil {
		return []row{{wrong, of, "API server", err.Error()}}
	}
	checks := &clusterChecks{config: c, crds: map[string]*lifecycle.CRD{}}
	for i := range crds {
		checks.crds[crds[i].Name] = lifecycle.FromObject(&crds[i])
	}
	if checks.namespaces, err = listNamespaces(ctx, reach); err != nil && !apierrors.IsForbidden(err) {
		return []row{{wrong, of, "API server", fmt.Sprintf("%s does not say which namespaces there are: %v", reach.Config.Host, err)}}
	}
	checks.may = func(ctx context.Context, a authorizationv1.ResourceAttributes) (bool, error) {
		review, err := client.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		return review.Status.Allowed, nil
	}
	return append([]row{{fine, of, "API server", fmt.Sprintf("%s answers; CRDs: %d", reach.Config.Host, len(crds))}},
		checks.all(ctx)...)
}

// all runs the checks, some at a time, and gives what they found in the order
// of the file.
func (c *clusterChecks) all(ctx context.Context) []row {
	var todo []func() []row
	todo = append(todo, func() []row {
		return c.rights(ctx, "cluster", "CRDs", "", "apiextensions.k8s.io", "customresourcedefinitions", "", "get", "list", "watch")
	})
	if e := c.config.LeaderElection; e.Enabled && e.Namespace != "" {
		todo = append(todo, func() []row {
			return append(c.rights(ctx, "cluster", "lease "+e.Name, e.Namespace, "coordination.k8s.io", "leases", e.Name, "get", "update"),
				c.rights(ctx, "cluster", "lease "+e.Name, e.Namespace, "coordination.k8s.io", "leases", "", "create")...)
		})
	}
	for i := range c.config.Routes {
		r := &c.config.Routes[i]
		for _, pattern := range r.CRDs {
			switch {
			case !pattern.IsWildcard() && r.Selects(string(pattern)):
				todo = append(todo, func() []row { return c.route(ctx, r, string(pattern)) })
			case pattern.IsWildcard():
				todo = append(todo, c.wildcard(ctx, r, pattern)...)
			}
		}
	}
	found := make([][]row, len(todo))
	turns := make(chan struct{}, checksAtOnce)
	var asking sync.WaitGroup
	for i, do := range todo {
		asking.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			found[i] = do()
		})
	}
	asking.Wait()
	return slices.Concat(found...)
}

// wildcard are the checks of what a wildcard means now.
func (c *clusterChecks) wildcard(ctx context.Context, r *config.Route, pattern config.CRDPattern) (todo []func() []row) {
	for _, name := range slices.Sorted(maps.Keys(c.crds)) {
		if pattern.Matches(name) && r.Selects(name) && !slices.Contains(r.CRDs, config.CRDPattern(name)) {
			todo = append(todo, func() []row { return c.route(ctx, r, name) })
		}
	}
	if len(todo) == 0 {
		todo = append(todo, func() []row {
			return []row{{warning, "route " + r.Name, string(pattern), "no CRD matches; a flow starts for each that does"}}
		})
	}
	return todo
}

// route checks one CRD on one route.
func (c *clusterChecks) route(ctx context.Context, r *config.Route, name string) []row {
	of := "route " + r.Name
	crd, there := c.crds[name]
	if !there {
		result := "there is no such CRD yet; the flow starts when it is created"
		if meant := config.Nearest(name, slices.Collect(maps.Keys(c.crds))); meant != "" {
			result += "; did you mean " + meant + "?"
		}
		return []row{{warning, of, name, result}}
	}
	version, err := crd.Choose(r.Version)
	if err != nil {
		return []row{{wrong, of, name, err.Error()}}
	}
	rows := []row{{fine, of, name, "version " + version + " is served"}}
	if len(r.Namespaces) > 0 && !crd.Namespaced {
		return append(rows, row{wrong, of, name, "it is cluster-scoped, and the route selects namespaces: take it out of the route, or put it on one without namespaces"})
	}
	if missing := crd.Unselectable(version, r.FieldSelector); len(missing) > 0 {
		rows = append(rows, row{wrong, of, name, fmt.Sprintf("fieldSelector: version %s does not have %s among its selectableFields", version, strings.Join(missing, ", "))})
	}
	namespaces := r.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, namespace := range namespaces {
		if namespace != "" && c.namespaces != nil && !slices.Contains(c.namespaces, namespace) {
			result := "there is no namespace " + namespace + " yet; its objects are followed when there are any"
			if meant := config.Nearest(namespace, c.namespaces); meant != "" {
				result += "; did you mean " + meant + "?"
			}
			rows = append(rows, row{warning, of, name, result})
		}
		rows = append(rows, c.rights(ctx, of, name, namespace, crd.Group, crd.Plural, "", "list", "watch")...)
	}
	return rows
}

// rights asks whether all of the verbs are granted; where one is not, it says
// with which rule they would be.
func (c *clusterChecks) rights(ctx context.Context, of, what, namespace, group, resource, name string, verbs ...string) []row {
	where := "in the whole cluster"
	if namespace != "" {
		where = "in namespace " + namespace
	}
	var missing []string
	for _, verb := range verbs {
		allowed, err := c.may(ctx, authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: group, Resource: resource, Name: name})
		if err != nil {
			return []row{{wrong, of, what, fmt.Sprintf("whether it is allowed %s cannot be asked: %v", where, err)}}
		}
		if !allowed {
			missing = append(missing, verb)
		}
	}
	if len(missing) == 0 {
		return []row{{fine, of, what, fmt.Sprintf("%s: allowed %s", strings.Join(verbs, ", "), where)}}
	}
	rule := fmt.Sprintf("{apiGroups: [%q], resources: [%q], verbs: [%s]}", group, resource, strings.Join(verbs, ", "))
	return []row{{wrong, of, what, fmt.Sprintf("%s: not allowed %s; grant %s", strings.Join(missing, ", "), where, rule)}}
}

// listNamespaces are the names of all namespaces.
func listNamespaces(ctx context.Context, cluster sources.Cluster) ([]string, error) {
	client, err := metadata.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, err
	}
	list, err := client.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}
