package main

import (
	"debug/buildinfo"
	"os"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeComponents writes the list of the modules that are compiled into binary, as the
// Go toolchain recorded them there: what is linked, and not what go.mod names.
func writeComponents(path, binary, version string, p platform) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	plugin := component(cdx.ComponentTypeApplication, module, version)
	plugin.Properties = &[]cdx.Property{{Name: "go:os", Value: p.os}, {Name: "go:arch", Value: p.arch}}
	components := []cdx.Component{component(cdx.ComponentTypeLibrary, "std", strings.TrimPrefix(info.GoVersion, "go"))}
	needs := []string{components[0].BOMRef}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component(cdx.ComponentTypeLibrary, m.Path, m.Version)
		components, needs = append(components, c), append(needs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	// The rest of a serial number's and a time's use is to tell two lists of equal
	// content apart, which these are not.
	bom.Metadata = &cdx.Metadata{Component: &plugin}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: plugin.BOMRef, Dependencies: &needs}}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// component names a module by its package URL
// (https://github.com/package-url/purl-spec, type golang).
func component(kind cdx.ComponentType, path, version string) cdx.Component {
	url := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{BOMRef: url, Type: kind, Name: path, Version: version, PackageURL: url}
}
