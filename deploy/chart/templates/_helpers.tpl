{{/* The name of all objects: `crbridge` for a release of that name. */}}
{{- define "crbridge.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "crbridge.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "crbridge.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "crbridge.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Helm adds app.kubernetes.io/managed-by itself to what it installs. */}}
{{- define "crbridge.labels" -}}
{{ include "crbridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "crbridge.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The configuration, as JSON: what the values have, with the addresses that the
bridge would take, and election where there may be a second bridge, also for the
while of a rollout. The Lease is the release's own, as two may be in a namespace.
*/}}
{{- define "crbridge.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- range $key, $address := dict "health" ":8081" "server" "127.0.0.1:8080" -}}
{{- $part := get $config $key | default dict -}}
{{- $_ := set $config $key (set $part "address" ($part.address | default $address)) -}}
{{- end -}}
{{- $election := $config.leaderElection | default dict -}}
{{- if not (kindIs "bool" $election.enabled) -}}
{{- $_ := set $election "enabled" (ne (include "crbridge.embedded" .) "true") -}}
{{- end -}}
{{- $_ := set $config "leaderElection" (set $election "name" ($election.name | default (include "crbridge.fullname" .))) -}}
{{- toJson $config -}}
{{- end -}}

{{/* Whether a sink has its NATS server in the bridge. */}}
{{- define "crbridge.embedded" -}}
{{- range .Values.config.sinks -}}
{{- if (.nats | default dict).embedded -}}true{{- break -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/*
What follows from the configuration, as JSON:

  health    the port of the probes
  server    the port of metrics and status; 0 where it is loopback's
  embedded  whether a sink has its NATS server in the bridge
  nats      the ports of those that are not loopback's, by sink
  egress    the ports of the sinks' URLs

An address that cannot work in a pod is an error here.
*/}}
{{- define "crbridge.facts" -}}
{{- $config := include "crbridge.config" . | fromJson -}}
{{- $loopback := `^(127\.[0-9.]*|localhost|\[::1\]):[0-9]+$` -}}
{{- $health := $config.health.address -}}
{{- if regexMatch $loopback $health -}}
{{- fail (printf "config.health.address: %q: the kubelet's probes come from outside of the pod; leave the host out" $health) -}}
{{- end -}}
{{- $server := $config.server.address -}}
{{- $nats := dict -}}
{{- $egress := list -}}
{{- range $name, $sink := $config.sinks -}}
{{- $urls := list -}}
{{- with $sink.http -}}{{- $urls = append $urls .url -}}{{- end -}}
{{- with $sink.nats -}}
{{- with .url -}}{{- $urls = kindIs "slice" . | ternary . (list .) -}}{{- end -}}
{{- range $urls -}}
{{- if contains "," . -}}
{{- fail (printf "config.sinks.%s.nats.url: a comma in the URL; several servers are a list: [nats://a:4222, nats://b:4222]" $name) -}}
{{- end -}}
{{- end -}}
{{- with .embedded -}}
{{- $below := printf "%s/" (trimSuffix "/" $.Values.persistence.mountPath) -}}
{{- if not (hasPrefix $below (printf "%s/" (clean .dir))) -}}
{{- fail (printf "config.sinks.%s.nats.embedded.dir: %q: is not in persistence.mountPath, %s, and would be gone with the pod" $name .dir $.Values.persistence.mountPath) -}}
{{- end -}}
{{- $address := .address | default "127.0.0.1:4222" -}}
{{- if not (regexMatch $loopback $address) -}}
{{- $_ := set $nats $name (regexFind "[0-9]+$" $address | int) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $urls -}}
{{- $url := urlParse . -}}
{{- $usual := get (dict "http" "80" "https" "443" "ws" "80" "wss" "443") (lower $url.scheme) | default "4222" -}}
{{- $egress = append $egress (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default $usual | int) -}}
{{- end -}}
{{- end -}}
{{- $facts := dict "health" (regexFind "[0-9]+$" $health | int) "server" 0 "embedded" (eq (include "crbridge.embedded" .) "true") "nats" $nats "egress" ($egress | uniq) -}}
{{- if not (regexMatch $loopback $server) -}}
{{- $_ := set $facts "server" (regexFind "[0-9]+$" $server | int) -}}
{{- end -}}
{{- $addresses := dict "health.address" $health "server.address" $server -}}
{{- range $name, $port := $nats -}}
{{- $_ := set $addresses (printf "sinks.%s.nats.embedded.address" $name) (printf ":%v" $port) -}}
{{- end -}}
{{- range $key, $address := $addresses -}}
{{- if hasSuffix ":0" $address -}}
{{- fail (printf "config.%s: %q: a pod's ports have to be known; write another than 0" $key $address) -}}
{{- end -}}
{{- end -}}
{{- toJson $facts -}}
{{- end -}}

{{/* Files below /etc/crbridge/secrets have to be in Secrets that are mounted. */}}
{{- define "crbridge.checkSecrets" -}}
{{- range regexFindAll `/etc/crbridge/secrets/[^/"]+` (toJson .Values.config.sinks) -1 | uniq -}}
{{- $name := base . -}}
{{- if not (has $name $.Values.secrets) -}}
{{- fail (printf "config.sinks: %s: Secret %s is not mounted; add it to secrets" . $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
