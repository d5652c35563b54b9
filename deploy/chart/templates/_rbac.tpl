{{/*
Which resources are followed, as `bridge rbac` works it out (pkg/rbac), as JSON:

  everywhere  resources by group, in the whole cluster
  in          resources by group, by namespace, where they are not followed
              everywhere as well

What a wildcard means only the cluster knows; it is refused, never made wider.
*/}}
{{- define "crbridge.followed" -}}
{{- $everywhere := dict -}}
{{- $in := dict -}}
{{- $selected := dict -}}
{{- range $i, $route := .Values.config.routes -}}
{{- $names := list -}}
{{- range $route.crds -}}
{{- if not (hasPrefix "*" .) -}}
{{- if ne (include "crbridge.excluded" (dict "crd" . "by" $route.excludeCRDs)) "true" -}}{{- $names = append $names . -}}{{- end -}}
{{- else if not $.Values.rbac.rules -}}
{{- fail (printf "config.routes[%d].crds: %q: which CRDs that means only the cluster knows. Give the rules for them in rbac.rules; or let `bridge rbac` ask the cluster, apply what it prints, and set rbac.create to false" $i .) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $selected (toString $i) $names -}}
{{- if not $route.namespaces -}}
{{- range $names -}}
{{- include "crbridge.follow" (dict "in" $everywhere "crd" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $i, $route := .Values.config.routes -}}
{{- range $crd := get $selected (toString $i) -}}
{{- $resource := splitn "." 2 $crd -}}
{{- if not (has $resource._0 (get $everywhere $resource._1 | default list)) -}}
{{- range $namespace := $route.namespaces -}}
{{- if not (hasKey $in $namespace) -}}{{- $_ := set $in $namespace dict -}}{{- end -}}
{{- include "crbridge.follow" (dict "in" (get $in $namespace) "crd" $crd) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "everywhere" $everywhere "in" $in | toJson -}}
{{- end -}}

{{/* Whether one of the patterns means the CRD: its name, *.<group> or *. */}}
{{- define "crbridge.excluded" -}}
{{- $group := printf "*.%s" (splitn "." 2 .crd)._1 -}}
{{- range .by -}}
{{- if has . (list "*" $group $.crd) -}}true{{- break -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "crbridge.follow" -}}
{{- $resource := splitn "." 2 .crd -}}
{{- $_ := set .in $resource._1 (append (get .in $resource._1 | default list) $resource._0 | uniq | sortAlpha) -}}
{{- end -}}

{{- define "crbridge.rules" -}}
{{- range $group, $resources := . }}
- apiGroups: [{{ quote $group }}]
  resources: {{ toJson $resources }}
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* What the bridge writes about itself. */}}
{{- define "crbridge.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Who leads; an Event on the Lease is of the older API. */}}
{{- define "crbridge.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ quote . }}]
  verbs: [get, update]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "crbridge.role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name | quote }}
  namespace: {{ .namespace | quote }}
  labels: {{- include "crbridge.labels" .root | nindent 4 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name | quote }}
  namespace: {{ .namespace | quote }}
  labels: {{- include "crbridge.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name | quote }}
subjects: {{- include "crbridge.subjects" .root | nindent 2 }}
{{ end -}}

{{- define "crbridge.subjects" -}}
- kind: ServiceAccount
  name: {{ include "crbridge.serviceAccount" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}
