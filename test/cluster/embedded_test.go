//go:build linux && cluster

package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/test/node"
)

// TestEmbedded has the bridge run its own NATS server on a volume, for
// subscribers with a password: they get the events, and what was stored is there
// after another pod has taken the place of the first, which goes on from it.
func TestEmbedded(t *testing.T) {
	const group, objects = "embedded.example.com", 5
	w := newWorld(t, "embedded")
	if err := w.Apply(t.Context(), orders(group)); err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(t.Context(), w.volume(t)); err != nil {
		t.Fatal(err)
	}
	const secret = "nats-users"
	w.values["replicas"] = 1
	w.values["secrets"] = []string{secret}
	w.values["persistence"] = map[string]any{"size": "1Gi", "storageClassName": w.namespace}
	w.values["config"] = map[string]any{
		"cluster": "node",
		"routes":  []any{route("embedded", "orders."+group)},
		"sinks": map[string]any{"main": map[string]any{"nats": map[string]any{
			"embedded":  map[string]any{"dir": "/var/lib/crbridge", "address": ":4222", "maxBytes": 512 << 20},
			"auth":      map[string]any{"userFile": "/etc/crbridge/secrets/" + secret + "/user", "passwordFile": "/etc/crbridge/secrets/" + secret + "/password"},
			"jetstream": map[string]any{"stream": stream, "maxBytes": 256 << 20},
		}}},
	}
	w.deploy(t)
	_, err := w.Clientset().CoreV1().Secrets(w.namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secret},
		StringData: map[string]string{"user": "shop", "password": "open sesame"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := w.ready(t, 1, "one")[0]
	client := w.objects(t, group)
	for i := range objects {
		if _, err := client.Create(t.Context(), order(group, fmt.Sprint("o", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(pod *corev1.Pod, last string) string {
		t.Helper()
		var ids []string
		eventually(t, func() (err error) {
			if ids, err = w.stored(t, pod); err == nil && (len(ids) == 0 || !strings.HasPrefix(ids[len(ids)-1], last)) {
				err = fmt.Errorf("the stream has %q, and nothing about %s at its end", ids, last)
			}
			return err
		})
		return strings.Join(ids, "\n")
	}
	before := stored(&first, fmt.Sprintf("created default/o%d", objects-1))
	if got := strings.Count(before, "\n") + 1; got != objects {
		t.Errorf("%d events, not %d:\n%s", got, objects, before)
	}

	if err := w.Clientset().CoreV1().Pods(w.namespace).Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Patch(t.Context(), "o0", types.MergePatchType, []byte(`{"spec":{"size":1}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	var second corev1.Pod
	eventually(t, func() error {
		if second = w.ready(t, 1, "one")[0]; second.UID == first.UID {
			return fmt.Errorf("%s is the same pod still", second.Name)
		}
		return nil
	})
	if after, found := strings.CutPrefix(stored(&second, "updated default/o0"), before+"\n"); !found || strings.Contains(after, "\n") {
		t.Errorf("the next pod has the events\n%s\nand before there were\n%s", after, before)
	}
}

// volume is the manifest of a volume on the node, in a storage class that has
// the namespace's name.
func (w *world) volume(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Join(w.Dir(), "volume-"+w.namespace) // goes with the node, as the pod may write to the end
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: %[1]s
  local: {path: %[2]s}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%[3]s]}]}]
`, w.namespace, dir, node.Name)
}

// stored tells of each event in the stream of the pod's server what it says.
func (w *world) stored(t *testing.T, pod *corev1.Pod) ([]string, error) {
	t.Helper()
	connection, err := nats.Connect("nats://"+pod.Status.PodIP+":4222", nats.UserInfo("shop", "open sesame"))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"k8s.>"}})
	if err != nil {
		return nil, err
	}
	batch, err := consumer.FetchNoWait(1000)
	if err != nil {
		return nil, err
	}
	var told []string
	for m := range batch.Messages() {
		change, _ := strings.CutPrefix(m.Headers().Get("ce-type"), "dev.crbridge.resource.")
		told = append(told, fmt.Sprintf("%s %s %s", strings.TrimSuffix(change, ".v1"), m.Headers().Get("ce-subject"), m.Headers().Get("ce-id")))
	}
	return told, batch.Error()
}
