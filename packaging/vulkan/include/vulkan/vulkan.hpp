// Stands before the system's vulkan.hpp when the Vulkan plug-in is built: headers older than 1.3.272 lack the types of
// VK_EXT_layer_settings. ggml names them even where it does not switch the extension on. The layout is that of the
// Vulkan specification, so the structure can be chained as usual.
#pragma once

#include_next <vulkan/vulkan.hpp>

#if !defined(VK_EXT_layer_settings)

#include <cstdint>
#include <vector>

namespace VULKAN_HPP_NAMESPACE {

enum class LayerSettingTypeEXT : int32_t {
    eBool32 = 0,
};

struct LayerSettingEXT {
    const char * layer_name;
    const char * setting_name;
    LayerSettingTypeEXT type;
    uint32_t n_values;
    const void * values;
};

struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & list)
        : n_settings(static_cast<uint32_t>(list.size())), settings(list.data()) {}

    VkStructureType type = static_cast<VkStructureType>(1000496000);
    const void * next = nullptr;
    uint32_t n_settings;
    const LayerSettingEXT * settings;
};

} // namespace VULKAN_HPP_NAMESPACE

#endif
