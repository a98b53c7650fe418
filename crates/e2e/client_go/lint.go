package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// lintPlan is a text with figures.
type lintPlan struct {
	Text string
}

// lintReport is what Prometheus' own library reads of it, and what promtool would say.
type lintReport struct {
	// Families are the types of figures by their names.
	Families map[string]string
	// Problems are empty where there is none.
	Problems []string
}

func lint(in *json.Decoder, out *json.Encoder) error {
	var plan lintPlan
	if err := in.Decode(&plan); err != nil {
		return err
	}
	report := lintReport{Families: map[string]string{}, Problems: []string{}}
	decoder := expfmt.NewDecoder(strings.NewReader(plan.Text), expfmt.NewFormat(expfmt.TypeTextPlain))
	for {
		var family dto.MetricFamily
		if err := decoder.Decode(&family); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			report.Problems = append(report.Problems, err.Error())
			break
		}
		report.Families[family.GetName()] = family.GetType().String()
	}
	problems, err := promlint.New(strings.NewReader(plan.Text)).Lint()
	if err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	for _, problem := range problems {
		report.Problems = append(report.Problems, fmt.Sprintf("%s: %s", problem.Metric, problem.Text))
	}
	return out.Encode(report)
}
