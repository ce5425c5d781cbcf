{{/* What everything is called. */}}
{{- define "switchboard.name" -}}
{{- $long := printf "%s-%s" .Release.Name .Chart.Name }}
{{- ternary .Release.Name $long (contains .Chart.Name .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What pods are found by; it never changes. */}}
{{- define "switchboard.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "switchboard.labels" -}}
{{ include "switchboard.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Refuses what cannot run, in words. */}}
{{- define "switchboard.check" -}}
{{- if not .Values.store.secret }}
{{- fail "store.secret: name the Secret with the URL of the PostgreSQL database; docs/scaling.md has the steps" }}
{{- end }}
{{- if and .Values.auth.secret .Values.auth.publicKey.configMap }}
{{- fail "auth.secret and auth.publicKey.configMap: the keys that verify tokens are in one setting, so give one of them" }}
{{- end }}
{{- if not (or .Values.auth.secret .Values.auth.publicKey.configMap) }}
{{- fail "auth.secret: name the Secret that tokens are verified with, or in auth.publicKey.configMap a ConfigMap with a public key" }}
{{- end }}
{{- if and (or .Values.bus.ca.configMap .Values.bus.credentials.secret) (not .Values.bus.secret) }}
{{- fail "bus.secret: there are certificates or credentials for a bus, and no URL of one" }}
{{- end }}
{{- end }}

{{/* The networks of trusted proxies, with commas between; empty for none. */}}
{{- define "switchboard.trustedProxies" -}}
{{- if .Values.trustedProxies }}
{{- join "," .Values.trustedProxies }}
{{- else if .Values.ingress.enabled -}}
10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fd00::/8
{{- end }}
{{- end }}
