package rbac

import (
	"encoding/json"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Grant is a role that lists and watches one resource, in one namespace or, where
// that is empty, in all, and its binding to the subject.
func Grant(group, resource, namespace string, subject rbacv1.Subject) []any {
	meta := metav1.ObjectMeta{Name: name + "-" + resource + "." + group, Namespace: namespace, Labels: labels}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"list", "watch"}}}
	if namespace == "" {
		return []any{
			&rbacv1.ClusterRole{TypeMeta: kind("ClusterRole"), ObjectMeta: meta, Rules: rules},
			&rbacv1.ClusterRoleBinding{
				TypeMeta: kind("ClusterRoleBinding"), ObjectMeta: meta, Subjects: []rbacv1.Subject{subject},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			},
		}
	}
	return []any{
		&rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: meta, Rules: rules},
		&rbacv1.RoleBinding{
			TypeMeta: kind("RoleBinding"), ObjectMeta: meta, Subjects: []rbacv1.Subject{subject},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		},
	}
}

// YAML is the objects as people write them: without times of creation that they
// have not yet.
func YAML(objects ...any) (string, error) {
	documents := make([]string, 0, len(objects))
	for _, object := range objects {
		content, err := json.Marshal(object)
		if err != nil {
			return "", err
		}
		var fields map[string]any
		if err := json.Unmarshal(content, &fields); err != nil {
			return "", err
		}
		if metadata, ok := fields["metadata"].(map[string]any); ok {
			delete(metadata, "creationTimestamp")
		}
		text, err := yaml.Marshal(fields)
		if err != nil {
			return "", err
		}
		documents = append(documents, string(text))
	}
	return strings.Join(documents, "---\n"), nil
}
