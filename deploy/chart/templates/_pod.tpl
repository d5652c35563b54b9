{{- define "crbridge.pod" -}}
{{- $facts := include "crbridge.facts" . | fromJson -}}
{{- include "crbridge.checkSecrets" . -}}
metadata:
  {{- /* What the values repeat of the chart's own is in it once. The selector's stay. */}}
  labels: {{- merge (include "crbridge.selector" . | fromYaml) (.Values.podLabels | default dict) | toYaml | nindent 4 }}
  annotations:
    # Only what needs a restart: anything else is reloaded in place.
    crbridge.dev/needs-restart: {{ pick (include "crbridge.config" . | fromJson) "cluster" "health" "leaderElection" "server" "state" | toJson | sha256sum | trunc 16 | quote }}
    {{- merge (omit (.Values.podAnnotations | default dict) "crbridge.dev/needs-restart") (dict "kubectl.kubernetes.io/default-container" "bridge") | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "crbridge.serviceAccount" . | quote }}
  automountServiceAccountToken: false # see the volume service-account
  # No environment variables for the namespace's Services: the bridge reads its
  # configuration from the environment too.
  enableServiceLinks: false
  # On SIGTERM the bridge takes up to 15 s to deliver what is queued, up to 10 s
  # to give its Lease back, and some more to close; the rest is margin.
  terminationGracePeriodSeconds: 45
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    {{- with .Values.runAs }}
    runAsUser: {{ int . }}
    runAsGroup: {{ int . }}
    # Secrets, the token and the embedded server's volume are the group's.
    fsGroup: {{ int . }}
    fsGroupChangePolicy: OnRootMismatch
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  {{- if gt (int .Values.replicas) 1 }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway # a cluster of one node gets all as well
      labelSelector:
        matchLabels: {{- include "crbridge.selector" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: bridge
      image: {{ include "crbridge.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      terminationMessagePolicy: FallbackToLogsOnError # so that kubectl describe says why it ended
      args: [run, --config, /etc/crbridge/config.yaml]
      env:
        # The pod that Events about the configuration are written about.
        - name: POD_NAME
          valueFrom:
            fieldRef: {fieldPath: metadata.name}
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef: {fieldPath: metadata.namespace}
        - name: POD_UID
          valueFrom:
            fieldRef: {fieldPath: metadata.uid}
        {{- with .Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: health
          containerPort: {{ $facts.health }}
        {{- if and $facts.server (ne $facts.server $facts.health) }}
        - name: http
          containerPort: {{ $facts.server }}
        {{- end }}
        {{- range $port := values $facts.nats | uniq | sortAlpha }}
        - containerPort: {{ $port }}
        {{- end }}
      # All are about this process alone. NATS or the API server being down fails
      # neither the first nor the second: a restart would not bring it back.
      startupProbe:
        httpGet: {path: /healthz, port: health}
        periodSeconds: 1
        timeoutSeconds: 3
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: health}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 6
      # The configuration is loaded, and the cluster's CRDs are known.
      readinessProbe:
        httpGet: {path: /readyz, port: health}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      # GOMEMLIMIT and GOMAXPROCS need no variables: the bridge sets the first to
      # 0.9 of the memory limit, and the second follows the load, up to the CPU limit.
      resources: {{- toYaml .Values.resources | nindent 8 }}
      {{- /* An API server before 1.33 drops it: what is there would differ from what was applied, for ever. */}}
      {{- if semverCompare ">=1.33.0-0" .Capabilities.KubeVersion.Version }}
      # Where a pod is resized in place: the memory limit is read at the start.
      resizePolicy:
        - resourceName: memory
          restartPolicy: RestartContainer
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        privileged: false
        capabilities:
          drop: [ALL]
      volumeMounts:
        # The whole directory: a file mounted by subPath never changes when the
        # ConfigMap does.
        - name: config
          mountPath: /etc/crbridge
          readOnly: true
        - name: service-account
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
        {{- range $i, $name := .Values.secrets }}
        - name: secret-{{ $i }}
          mountPath: /etc/crbridge/secrets/{{ $name }}
          readOnly: true
        {{- end }}
        {{- if $facts.embedded }}
        - name: data
          mountPath: {{ .Values.persistence.mountPath }}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "crbridge.fullname" . | quote }}
    # As the one that Kubernetes would mount by itself, but for the token's life:
    # an hour. The kubelet renews it twelve minutes before its end, and the bridge
    # reads it again each minute.
    - name: service-account
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken:
              path: token
              expirationSeconds: 3600
          - configMap:
              name: kube-root-ca.crt
              items:
                - {key: ca.crt, path: ca.crt}
          - downwardAPI:
              items:
                - path: namespace
                  fieldRef: {fieldPath: metadata.namespace}
    {{- range $i, $name := .Values.secrets }}
    - name: secret-{{ $i }}
      secret:
        secretName: {{ $name }}
        defaultMode: 0440
    {{- end }}
    {{- if $facts.embedded }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.persistence.existingClaim | default (include "crbridge.fullname" .) }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
