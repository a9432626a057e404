package trust

// InspectRoot describes root metadata without trusting it: for tools that work
// where the root keys are kept.
func InspectRoot(data []byte) (RootInfo, error) {
	r, err := parseRoot(data)
	if err != nil {
		return RootInfo{}, err
	}
	return (&Anchors{roots: []*root{r}}).Root(), nil
}

// InspectDomain tells for which domain root metadata is made, without trusting it.
func InspectDomain(data []byte) (string, error) {
	r, err := parseRoot(data)
	if err != nil {
		return "", err
	}
	return r.domain, nil
}
