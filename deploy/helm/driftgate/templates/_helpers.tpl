{{- define "driftgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "driftgate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "driftgate.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "driftgate.selector" -}}
app.kubernetes.io/name: {{ include "driftgate.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .stage }}
{{- end }}

{{- define "driftgate.labels" -}}
{{ include "driftgate.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "driftgate.serviceAccount" -}}
{{- default (include "driftgate.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "driftgate.image" -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{ .root.Values.image.repository }}:{{ $tag }}{{ if .slim }}-slim{{ end }}
{{- end }}

{{- define "driftgate.config" -}}
{{ toYaml .Values.config }}
{{- end }}

{{/* The variables of one process: its name, its configuration, and the Secrets it may see. */}}
{{- define "driftgate.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: DRIFTGATE_CONFIG
  value: /etc/driftgate/driftgate.yaml
{{- range $name, $source := .root.Values.secretEnv }}
{{- with $source }}
{{- if or (not .stages) (has $.stage .stages) }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The Pod of one process. Takes root, stage, args, slim, resources, data (a volume), ports. */}}
{{- define "driftgate.pod" -}}
metadata:
  labels:
    {{- include "driftgate.labels" . | nindent 4 }}
    {{- with .root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "driftgate.config" .root | sha256sum }}
    {{- with .root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "driftgate.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
  {{- with .root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .root.Values.podSecurityContext | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "driftgate.selector" . | nindent 10 }}
  containers:
    - name: {{ .stage }}
      image: {{ include "driftgate.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      env:
        {{- include "driftgate.env" . | nindent 8 }}
      ports:
        - {name: web, containerPort: {{ .root.Values.config.web.port }}}
        {{- range $name, $port := .ports }}
        - {name: {{ $name }}, containerPort: {{ $port }}}
        {{- end }}
      # Alive means that the process answers. A stage that waits for Kafka or ClickHouse stays alive: a restart would help
      # neither; it says what it waits for in /v1/status, and its lag grows. It is ready until a partition of its own has
      # stood still for `stalled_after`.
      startupProbe:
        httpGet: {path: /livez, port: web}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: web}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: web}
        periodSeconds: 5
        timeoutSeconds: 5
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        {{- toYaml .root.Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/driftgate, readOnly: true}
        - {name: data, mountPath: {{ .root.Values.config.data }}}
        - {name: tmp, mountPath: /tmp}
        {{- with .root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "driftgate.fullname" .root }}}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if not .claim }}
    - name: data
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- with .root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* A budget where there is more than one replica; with one it would only stop a node from being drained. */}}
{{- define "driftgate.budget" -}}
{{- $auto := .values.autoscaling -}}
{{- $least := ternary (int .values.replicas) (int $auto.minReplicas) (eq $auto.type "none") -}}
{{- if and .root.Values.podDisruptionBudget.enabled (gt $least 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "driftgate.fullname" .root }}-{{ .stage }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "driftgate.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "driftgate.selector" . | nindent 6 }}
{{- end }}
{{- end }}
