{{- define "winnow.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "winnow.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "winnow.labels" -}}
{{ include "winnow.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "winnow.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "winnow.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "winnow.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Containers need no more than this, whichever runs. */}}
{{- define "winnow.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The config file. Values go through JSON so that large numbers keep their digits. */}}
{{- define "winnow.config" -}}
model: /models/{{ .Values.model.file }}
{{- with .Values.model.name }}
model-name: {{ . }}
{{- end }}
address: 0.0.0.0:50051
metrics-address: 0.0.0.0:{{ .Values.metrics.port }}
lame-duck-seconds: {{ .Values.shutdown.propagationSeconds }}
drain-seconds: {{ .Values.shutdown.drainSeconds }}
{{- if .Values.gpu.enabled }}
device: cuda
{{- end }}
{{- if .Values.tls.secret }}
tls-cert: /tls/tls.crt
tls-key: /tls/tls.key
{{- if .Values.tls.clientAuth }}
tls-client-ca: /tls/ca.crt
{{- end }}
{{- end }}
{{- if .Values.auth.tokensSecret }}
auth-tokens: /auth/tokens
auth-over-plaintext: {{ .Values.auth.overPlaintext }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ $value | toJson | trimAll "\"" }}
{{- end }}
{{- end -}}

{{/* What commands need besides the address to call a server with TLS, one argument a line. */}}
{{- define "winnow.tlsArguments" -}}
{{- if .Values.tls.secret -}}
- --tls-ca=/tls/ca.crt
- --tls-server-name={{ .Values.tls.serverName | default (printf "%s.%s.svc" (include "winnow.fullname" .) .Release.Namespace) }}
{{- if .Values.tls.clientAuth }}
- --tls-cert=/tls/tls.crt
- --tls-key=/tls/tls.key
{{- end }}
{{- end -}}
{{- end -}}

{{/* What meshes and gateways are told of the port. */}}
{{- define "winnow.appProtocol" -}}
{{ ternary "https" "kubernetes.io/h2c" (ne .Values.tls.secret "") }}
{{- end -}}

{{/* How a probe asks: Kubernetes itself can't with TLS. */}}
{{- define "winnow.probe" -}}
{{- if .Values.tls.secret -}}
exec:
  command:
    - /usr/local/bin/winnow
    - health
    - --address=127.0.0.1:50051
    {{- include "winnow.tlsArguments" . | nindent 4 }}
{{- else -}}
grpc: {port: 50051}
{{- end -}}
{{- end -}}

{{/* The volume of the certificates. */}}
{{- define "winnow.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ .Values.tls.secret }}
    defaultMode: 0440
{{- end -}}

{{/* What one pod is, for Deployment and StatefulSet. */}}
{{- define "winnow.pod" -}}
metadata:
  labels:
    {{- include "winnow.selectorLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "winnow.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "winnow.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdown.propagationSeconds .Values.shutdown.drainSeconds 10 }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
  runtimeClassName: {{ .Values.gpu.runtimeClassName }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpread }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml . | nindent 6 }}
      labelSelector:
        matchLabels:
          {{- include "winnow.selectorLabels" $ | nindent 10 }}
    {{- end }}
  {{- end }}
  {{- if eq .Values.model.source "url" }}
  initContainers:
    - name: download-model
      image: {{ .Values.model.url.image }}
      command: [/bin/sh, -euc]
      args:
        - |
          target="/models/$FILE"
          check() { echo "$SHA256  $1" | sha256sum -c -s; }
          if [ -f "$target" ] && check "$target"; then exit 0; fi
          mkdir -p "$(dirname "$target")"
          curl --fail --location --retry 5 --output "$target.part" "$URL"
          check "$target.part" || { echo "SHA-256 of $URL is not $SHA256" >&2; rm "$target.part"; exit 1; }
          mv "$target.part" "$target"
      env:
        - {name: URL, value: {{ .Values.model.url.url | quote }}}
        - {name: SHA256, value: {{ .Values.model.url.sha256 | quote }}}
        - {name: FILE, value: {{ .Values.model.file | quote }}}
      securityContext:
        {{- include "winnow.containerSecurityContext" . | nindent 8 }}
      resources:
        requests: {cpu: 100m, memory: 64Mi}
        limits: {memory: 256Mi}
      volumeMounts:
        - {name: model, mountPath: /models}
  {{- end }}
  containers:
    - name: winnow
      image: {{ include "winnow.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/winnow/winnow.conf]
      ports:
        - {name: grpc, containerPort: 50051}
        - {name: metrics, containerPort: {{ .Values.metrics.port }}}
      # SERVING once the model is loaded, NOT_SERVING when the device failed or the server drains.
      startupProbe:
        {{- include "winnow.probe" . | nindent 8 }}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      readinessProbe:
        {{- include "winnow.probe" . | nindent 8 }}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      livenessProbe:
        {{- include "winnow.probe" . | nindent 8 }}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      securityContext:
        {{- include "winnow.containerSecurityContext" . | nindent 8 }}
      resources:
        {{- include "winnow.resources" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/winnow, readOnly: true}
        {{- if .Values.tls.secret }}
        - {name: tls, mountPath: /tls, readOnly: true}
        {{- end }}
        {{- if .Values.auth.tokensSecret }}
        - {name: auth, mountPath: /auth, readOnly: true}
        {{- end }}
        - name: model
          mountPath: /models
          readOnly: true
          {{- if and (eq .Values.model.source "pvc") .Values.model.pvc.subPath }}
          subPath: {{ .Values.model.pvc.subPath }}
          {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "winnow.fullname" . }}
    {{- if .Values.tls.secret }}
    {{- include "winnow.tlsVolume" . | nindent 4 }}
    {{- end }}
    {{- if .Values.auth.tokensSecret }}
    - name: auth
      secret:
        secretName: {{ .Values.auth.tokensSecret }}
        defaultMode: 0440
    {{- end }}
    {{- if eq .Values.model.source "pvc" }}
    - name: model
      persistentVolumeClaim:
        claimName: {{ .Values.model.pvc.existingClaim }}
        readOnly: true
    {{- else if eq .Values.model.source "image" }}
    - name: model
      image:
        reference: {{ .Values.model.image.reference }}
        pullPolicy: {{ .Values.model.image.pullPolicy }}
    {{- else if eq .Values.workload.kind "Deployment" }}
    - name: model
      emptyDir:
        sizeLimit: {{ .Values.model.url.size }}
    {{- end }}
{{- end -}}

{{/* Resources, with the GPUs among the limits. */}}
{{- define "winnow.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $limits := merge (dict .Values.gpu.resource .Values.gpu.count) ($resources.limits | default dict) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
