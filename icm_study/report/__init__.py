"""What pages say and show: style, figures, tables, words, verdicts."""
