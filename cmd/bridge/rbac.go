package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/rbac"
	"github.com/crbridge/crbridge/pkg/sources"
)

// printRBAC prints the roles that a bridge needs for the configuration. Only
// wildcards have the cluster asked, and are never made wider.
func printRBAC(ctx context.Context, o options, environ []string, stdout, stderr io.Writer) error {
	c, err := loadConfig(o.config, environ)
	if err != nil {
		return err
	}
	wildcards := wildcardsOf(c)
	var crds []rbac.CRD
	if len(wildcards) > 0 {
		if crds, err = clusterCRDs(ctx, o.kubeconfig); err != nil {
			return fmt.Errorf("%s: which CRDs %s means only the cluster knows: %w; name the CRDs, or say with --kubeconfig FILE how to reach the cluster",
				o.config, strings.Join(wildcards, ", "), err)
		}
		fmt.Fprintf(stderr, "warning: %s: the roles have the CRDs that there are now; for one that comes later they have to be printed and applied again\n",
			strings.Join(wildcards, ", "))
	}
	objects := rbac.Objects(rbac.Options{Config: c, CRDs: crds, Namespace: o.namespace, ServiceAccount: o.serviceAccount})
	fmt.Fprintf(stdout, "# What the bridge may do for %s, and no more, as service account %s of\n# namespace %s. Printed by bridge rbac; kubectl apply -f - takes it.\n",
		o.config, o.serviceAccount, o.namespace)
	if len(wildcards) > 0 {
		fmt.Fprintf(stdout, "# %s: the CRDs that there were on %s.\n", strings.Join(wildcards, ", "), time.Now().UTC().Format(time.DateOnly))
	}
	text, err := rbac.YAML(objects...)
	if err != nil {
		return err
	}
	fmt.Fprint(stdout, text)
	return nil
}

// wildcardsOf are the configuration's wildcards, each once.
func wildcardsOf(c *config.Config) (wildcards []string) {
	for _, r := range c.Routes {
		for _, p := range r.CRDs {
			if text := `"` + string(p) + `"`; p.IsWildcard() && !slices.Contains(wildcards, text) {
				wildcards = append(wildcards, text)
			}
		}
	}
	return wildcards
}

// askTimeout bounds a question that a command has to the cluster.
const askTimeout = 30 * time.Second

func clusterCRDs(ctx context.Context, kubeconfig string) ([]rbac.CRD, error) {
	cluster, err := connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all, err := listCRDs(ctx, cluster)
	if err != nil {
		return nil, err
	}
	crds := make([]rbac.CRD, 0, len(all))
	for i := range all {
		crd := &all[i]
		crds = append(crds, rbac.CRD{Name: crd.Name, Namespaced: crd.Spec.Scope == apiextensions.NamespaceScoped})
	}
	return crds, nil
}

// listCRDs are the CRDs that there are now.
func listCRDs(ctx context.Context, cluster sources.Cluster) ([]apiextensions.CustomResourceDefinition, error) {
	client, err := apiextensionsclient.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, err
	}
	list, err := client.CustomResourceDefinitions().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
