// Exports two spans with the OpenTelemetry SDK for Go and prints their ids as JSON.
//
//	exporter PROTOCOL ENDPOINT    (grpc host:port, or http/protobuf http://host:port/v1/traces)
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func exporter(ctx context.Context, protocol, endpoint string) (*otlptrace.Exporter, error) {
	headers := map[string]string{"authorization": "Bearer " + os.Getenv("TOKEN")}
	switch protocol {
	case "grpc":
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure(),
			otlptracegrpc.WithHeaders(headers), otlptracegrpc.WithCompressor("gzip"))
	case "http/protobuf":
		return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(headers),
			otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	return nil, fmt.Errorf("unknown protocol %q", protocol)
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sender, err := exporter(ctx, os.Args[1], os.Args[2])
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(sender),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "shop"),
			attribute.String("owner", "jane.doe@example.com"))))
	tracer := provider.Tracer("exporter.test", trace.WithInstrumentationVersion("1.2.3"))
	start := time.Unix(1700000000, 123456789)
	parentCtx, parent := tracer.Start(ctx, "POST /ask", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(start), trace.WithAttributes(attribute.String("http.route", "/ask")))
	_, child := tracer.Start(parentCtx, "chat m", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(start.Add(time.Millisecond)),
		trace.WithLinks(trace.Link{SpanContext: parent.SpanContext(),
			Attributes: []attribute.KeyValue{attribute.String("why", "test")}}))
	child.SetAttributes(
		attribute.String("gen_ai.operation.name", "chat"),
		attribute.String("gen_ai.request.model", "m"),
		attribute.Int("gen_ai.usage.input_tokens", 12),
		attribute.Float64("ratio", 0.5),
		attribute.Bool("flag", true),
		attribute.StringSlice("gen_ai.response.finish_reasons", []string{"stop", "length"}),
		attribute.String("gen_ai.input.messages",
			`[{"role":"user","parts":[{"type":"text","content":"I am jane.doe@example.com, hällo"}]}]`))
	child.AddEvent("note", trace.WithTimestamp(start.Add(2*time.Millisecond)),
		trace.WithAttributes(attribute.Int("n", 7)))
	child.SetStatus(codes.Error, "cannot reach jane.doe@example.com")
	child.End(trace.WithTimestamp(start.Add(3 * time.Millisecond)))
	parent.End(trace.WithTimestamp(start.Add(4 * time.Millisecond)))
	if err := errors.Join(provider.ForceFlush(ctx), provider.Shutdown(ctx)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]string{
		"trace_id": parent.SpanContext().TraceID().String(),
		"parent":   parent.SpanContext().SpanID().String(),
		"child":    child.SpanContext().SpanID().String(),
	})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
